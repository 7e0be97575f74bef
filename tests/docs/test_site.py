"""The site is built without a warning, and nothing on it leads nowhere.

A public name that has no place in the reference is a warning too
(docs/_ext/public_names.py).
"""

import html.parser
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.once
for package in ("furo", "myst_nb"):
    pytest.importorskip(package, reason="of the extra `docs`")


class Page(html.parser.HTMLParser):
    """Anchors, links and pictures of a page, and what it would fetch."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.fetched = set(), [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[k] for k in ("id", "name") if given.get(k)}
        address = given.get("href" if tag in ("a", "link") else "src")
        if address is None:
            return
        self.links.append(address)
        if tag != "a" and urllib.parse.urlsplit(address).netloc:
            self.fetched.append(address)


def broken_links(folder):
    """One line for each link of a built site that leads nowhere."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                name = urllib.parse.unquote(parts.path)
                target = (path.parent / name).resolve()
            anchor = urllib.parse.unquote(parts.fragment)
            lost = target in pages and anchor not in pages[target].anchors
            if not target.exists() or anchor and lost:
                broken.append(f"{path.relative_to(folder)}: {link}")
    return broken


def build(folder, *options):
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W"]
    command += ["--keep-going", "-j", "2", *options]
    command += ["-c", ROOT / "docs", ROOT, folder]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All but what the guides' cells print; `test_guides.py` runs them."""
    off = "nb_execution_mode=off", "suppress_warnings=myst-nb.lexer"
    options = [part for one in off for part in ("-D", one)]
    return build(tmp_path_factory.mktemp("site").resolve(), *options)


def test_every_link_and_picture_leads_somewhere(site):
    assert len(list(site.rglob("*.html"))) > 30
    assert broken_links(site) == []


def test_it_is_read_without_a_network(site):
    pages = {p: Page(p).fetched for p in site.rglob("*.html")}
    assert {p: found for p, found in pages.items() if found} == {}
    sheets = [*site.rglob("*.css")]
    assert sheets
    for sheet in sheets:
        fetched = re.findall(
            r"(?:@import|url\()[\s\"']*(?:https?:)?//", sheet.read_text()
        )
        assert fetched == [], sheet


@pytest.mark.slow
def test_every_guide_is_run_for_the_site(tmp_path):
    site = build(tmp_path.resolve())
    assert broken_links(site) == []
    for guide in (ROOT / "docs" / "guides").glob("*.md"):
        page = site / "docs" / "guides" / f"{guide.stem}.html"
        assert "cell_output" in page.read_text("utf-8"), guide.name


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here"></a><a href="b.html#gone"></a>'
        '<img src="none.png"><a href="#gone"></a><a href="https://a.b/"></a>'
    )
    wanted = ["a.html: b.html#gone", "a.html: none.png", "a.html: #gone"]
    assert broken_links(tmp_path) == wanted
