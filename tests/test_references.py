"""References to the repository's own pages lead somewhere; no backend needed.

    python tests/test_references.py FOLDER

prints the broken references of another folder and exits with 1 if there are
any.
"""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The text is the same whichever backend is tested.
pytestmark = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "jax") != "jax",
    reason="text has no backend",
)

SKIPPED = {"build", "dist", "runs", "node_modules", "shared"}

# `docs/method.md#sampling` or `tests/golden/README.md#vitnpz` in running text.
# Both start at the root of the repository.
PLAIN = re.compile(
    r"(?<![\w/.(])((?:docs/[\w./-]+|tests/golden/README)\.md)(?:#([\w-]+))?"
)
# The target of `[text](target)` and of `[text]: target`.
LINK = re.compile(r"\]\(\s*<?([^\s()<>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*<?([^\s<>]+)>?", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"^\s*(```+|~~~+)")

# Documents that the repository does not hold.
ABSENT = {
    "a document that is not in the repository": re.compile(
        r"\b(?:METHOD|DESIGN)(?:\.md)?\b(?:\s+(?:§\s*)?\d[\d.]*\d)?"
    ),
    "a folder outside the repository": re.compile(r"\.\./shared\b"),
    "a page by less than its path": re.compile(r"(?<!tests/)golden/README"),
}


def files_of(root):
    """The Python and Markdown files below a folder, hidden folders left out."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(p.startswith(".") or p in SKIPPED for p in parts[:-1])
        if path.suffix in (".py", ".md") and path.is_file() and not hidden:
            yield path


def lines_outside_code(text):
    """The lines of a Markdown page that are not in a fenced block of code."""
    fence = None
    for line in text.splitlines():
        found = FENCE.match(line)
        if found and fence is None:
            fence = found[1]
        elif found and found[1].startswith(fence):
            fence = None
        elif fence is None:
            yield line


def slug_of(heading):
    """The anchor that GitHub gives a heading."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # text of a link
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors_of(page):
    """Every anchor of a Markdown page; repeated headings are numbered."""
    anchors, counts = set(), {}
    for line in lines_outside_code(page.read_text("utf-8")):
        heading = HEADING.match(line)
        if heading:
            slug = slug_of(heading[1])
            count = counts.get(slug, 0)
            counts[slug] = count + 1
            anchors.add(f"{slug}-{count}" if count else slug)
        anchors.update(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
    return anchors


def targets_of(path, root, text):
    """`(as written, file or folder, anchor or None)` of each reference."""
    for found in PLAIN.finditer(text):
        yield found[0], root / found[1], found[2]
    # In Python, square brackets and parentheses are mostly code: a link is
    # looked for only where it has the form of a relative one.
    patterns = (LINK, DEFINITION) if path.suffix == ".md" else (LINK,)
    if path.suffix == ".md":
        text = "\n".join(lines_outside_code(text))
    for pattern in patterns:
        for found in pattern.finditer(text):
            place, _, anchor = found[1].partition("#")
            if re.match(r"[a-z][\w+.-]*:", found[1]) or found[1][0] in "/\\":
                continue  # an address, or not a relative path
            if path.suffix == ".py" and ".md" not in place:
                continue
            target = path.parent / place if place else path
            yield found[1], target, anchor or None


def broken_references(root):
    """One line for each reference below `root` that leads nowhere."""
    root, broken, anchors = Path(root).resolve(), [], {}
    own = Path(__file__).name
    for path in files_of(root):
        text = path.read_text("utf-8")
        name = path.relative_to(root).as_posix()
        if path.name == own:
            continue  # its examples are broken on purpose
        for written, target, anchor in targets_of(path, root, text):
            target = target.resolve()
            if not target.exists():
                broken.append(f"{name}: {written}: no such file")
            elif anchor is not None and target.suffix == ".md":
                if target not in anchors:
                    anchors[target] = anchors_of(target)
                if anchor not in anchors[target]:
                    broken.append(f"{name}: {written}: no such section")
        for what, pattern in ABSENT.items():
            if "README" in pattern.pattern and name.startswith("tests/golden/"):
                continue
            for found in pattern.finditer(text):
                line = text.count("\n", 0, found.start()) + 1
                broken.append(f"{name}:{line}: {found[0]!r}: {what}")
    return broken


@pytest.fixture(autouse=True)
def fixed_seeds():
    """In place of the suite's fixture, which imports Keras."""


def test_every_reference_leads_somewhere():
    assert broken_references(ROOT) == []


GOOD = {
    "docs/method.md": "# Method\n\n## On-policy noise\n\n## `vit.npz`: one\n",
    "tests/golden/README.md": "# Figures\n\n## vit.npz\n\ngolden/README\n",
    "README.md": "[noise](docs/method.md#on-policy-noise) [a](#top)\n# Top\n"
    "[web](https://example.com/none.md#none) ![](docs/method.md)\n"
    "```\n[code](none.md)\n```\n",
    "package/module.py": '"""See docs/method.md#vitnpz-one."""\n'
    "# tests/golden/README.md#vitnpz, [table](../README.md#top)\n"
    'x = names["none"](none.attribute)\n',
}


@pytest.fixture
def tree(tmp_path):
    def write(**changes):
        for name, text in {**GOOD, **changes}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_references_that_lead_somewhere_pass(tree):
    assert broken_references(tree()) == []


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("a.py", "# docs/none.md#sampling", "no such file"),
        ("a.py", "# docs/method.md#sampling", "no such section"),
        ("a.py", '"""See [x](docs/method.md#none)."""', "no such section"),
        ("a.py", "# tests/golden/README.md#ditnpz", "no such section"),
        ("b/c.md", "[text](../none.md)", "no such file"),
        ("b/c.md", "[text](none.png)", "no such file"),
        ("b/c.md", "[text](../docs/method.md#none)", "no such section"),
        ("b/c.md", "[text](#none)", "no such section"),
        ("b/c.md", "[text][1]\n\n[1]: none.md\n", "no such file"),
        ("a.py", "# METHOD 6.1", "not in the repository"),
        ("a.py", "# (DESIGN 5)", "not in the repository"),
        ("b/c.md", "as METHOD's figures", "not in the repository"),
        ("b/c.md", "see ../shared/x", "outside the repository"),
        ("a.py", "# golden/README.md#vitnpz", "less than its path"),
    ],
)
def test_a_broken_reference_is_found(name, text, wanted, tree):
    (found,) = broken_references(tree(**{name: text}))
    assert found.startswith(name) and wanted in found


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# What's *new*?\n## A\n## A\n## vit.npz (official, a_b - c)\n"
        "### [Link](x.md) ###\n```\n# code\n```\n"
    )
    wanted = {"whats-new", "a", "a-1", "vitnpz-official-a_b---c", "link"}
    assert anchors_of(page) == wanted


if __name__ == "__main__":
    lines = broken_references(sys.argv[1] if sys.argv[1:] else ROOT)
    print("\n".join(lines))
    sys.exit(bool(lines))
