"""Writes the tables of the documentation from the records in `results/`.

A record is a JSON file with the `command` that measured it, its `commit`,
`hardware` and `backend`, a list of `rows` (dicts), and `columns`: for each
heading a format string that is filled in with a row. A list is written as its
items, separated by commas. In a page

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
PAGES = ("README.md", "docs/*.md", "docs/guides/*.md", "applications/*/*.md")
NEEDED = {"command", "commit", "hardware", "backend", "rows", "columns"}
MARKED = re.compile(
    r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL
)


class Cells(string.Formatter):
    """Formats each item of a list by itself."""

    def format_field(self, value, format_spec):
        if isinstance(value, list):
            return ", ".join(format(item, format_spec) for item in value)
        return super().format_field(value, format_spec)


def table(record):
    """Markdown of a record's rows; a ValueError if an entry is missing."""
    missing = sorted(NEEDED - set(record))
    if missing:
        raise ValueError(
            f"A record has {', '.join(sorted(NEEDED))}. Received: one without "
            f"{', '.join(missing)}. Take them from what the tool printed."
        )
    heads = list(record["columns"])
    lines = [heads, ["---"] * len(heads)]
    for row in record["rows"]:
        templates = record["columns"].values()
        lines.append([Cells().format(t, **row) for t in templates])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
