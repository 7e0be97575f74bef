"""Writes the tables of the documentation from the records in `results/`.

A record is a JSON file with the `command` that measured it (or a list of them),
its `commit`, `hardware` and `backend`, a list of `rows` (dicts), and `columns`:
for each heading a format string that is filled in with a row (a space at the
end tells two equal headings apart). A row may hold `columns` of its own, for
cells that are written otherwise. A list is written as its items, separated by
commas, lists in it by semicolons; null is written as nothing, text as it is;
`{x:..3f}` is `{x:.3f}` without the zero before the point. A record whose
figures are those of other records names them under `from`; `elsewhere` holds
figures of the same runs that stand in the text. In a page

    <!-- table: NAME -->
    <!-- end of table -->

holds the table of `results/NAME.json`. `make results` writes all of them anew.
"""

import json
import re
import string
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/**/*.md", "applications/*/README.md")
NEEDED = {"command", "commit", "hardware", "backend", "rows", "columns"}
MARKED = re.compile(
    r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL
)


class Cells(string.Formatter):
    """Formats each item of a list by itself, and neither null nor text."""

    def format_field(self, value, format_spec):
        if isinstance(value, list):
            between = "; " if isinstance(value[0], list) else ", "
            items = [self.format_field(item, format_spec) for item in value]
            return between.join(items)
        if value is None or isinstance(value, str):
            return value or ""
        if format_spec.startswith(".."):
            return format(value, format_spec[1:]).removeprefix("0")
        return super().format_field(value, format_spec)


def table(record):
    """Markdown of a record's rows; a ValueError if an entry is missing."""
    missing = sorted(NEEDED - set(record))
    if missing:
        raise ValueError(
            f"A record has {', '.join(sorted(NEEDED))}. Received: one without "
            f"{', '.join(missing)}. Take them from what the tool printed."
        )
    lines = [[head.strip() for head in record["columns"]]]
    for row in record["rows"]:
        templates = record["columns"] | row.get("columns", {})
        lines.append([Cells().format(t, **row) for t in templates.values()])
    head, *rest = [
        "|" + "".join(f" {cell} |" if cell else " |" for cell in line)
        for line in lines
    ]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest, ""])


def written(text, folder=ROOT / "results"):
    """A page with its tables written anew."""

    def of_record(found):
        path = folder / f"{found[2]}.json"
        return (
            found[1]
            + "\n"
            + table(json.loads(path.read_text()))
            + "\n"
            + (found[4])
        )

    return MARKED.sub(of_record, text)


def pages():
    """Pages that may hold tables (list of paths)."""
    return sorted(path for glob in PAGES for path in ROOT.glob(glob))


def main():
    for page in pages():
        text = page.read_text("utf-8")
        new = written(text)
        if new != text:
            page.write_text(new, "utf-8")
            print(f"written: {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
