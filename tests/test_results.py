"""Tables of the documentation are those of the records in `results/`.

A table with figures that were not measured here has a line above it that says
what they are: `<!-- no results: settings of the paper -->`.
"""

import itertools
import json
import re

import pytest

from helpers.programs import ROOT, load

pytestmark = pytest.mark.once


tables, pictures = load("tools/tables.py"), load("tools/pictures.py")
RECORDS = {
    path.stem: json.loads(path.read_text())
    for path in (ROOT / "results").glob("*.json")
}
EXCUSE = r"<!-- no results: \S.* -->"
RECORD = {name: "" for name in tables.NEEDED}
RECORD |= {
    "rows": [{"name": "a", "found": [1.234, 2.0]}, {"name": "b", "found": 3}],
    "columns": {"row": "**{name}**", "found, %": "{found:.1f}"},
}


def test_pages_hold_what_the_records_say():
    used = set()
    for page in tables.pages():
        text = page.read_text("utf-8")
        assert tables.written(text) == text, f"{page}: run `make results`"
        used |= {found[2] for found in tables.MARKED.finditer(text)}
    assert used == {*RECORDS}


def test_a_table_is_written(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(RECORD))
    page = "before\n\n<!-- table: one -->\nold\n<!-- end of table -->\nafter\n"
    wanted = (
        "before\n\n<!-- table: one -->\n\n| row | found, % |\n|---|---|\n"
        "| **a** | 1.2, 2.0 |\n| **b** | 3.0 |\n\n"
        "<!-- end of table -->\nafter\n"
    )
    assert tables.written(page, tmp_path) == wanted
    assert tables.written(wanted, tmp_path) == wanted


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_drawn_from_the_records(name):
    path = pictures.FOLDER / f"{name}.png"
    assert pictures.digest_of(path) == pictures.record_of(name)[1]


def test_a_record_without_its_command_is_refused():
    with pytest.raises(ValueError, match="Received: one without command"):
        tables.table({k: v for k, v in RECORD.items() if k != "command"})


def test_cells_are_written():
    row = {"runs": [[1.0, 2.0], [3.0]], "gap": None, "word": "none", "p": 0.05}
    columns = {"a": "{runs:.1f}", "b": "{gap:.1f}", "c": "{word:.1f}"}
    columns |= {"d": "{p:..3f}", "d ": "{p}"}
    rows = [row, {**row, "columns": {"d": "**{p:.1f}**"}}]
    assert tables.table({**RECORD, "columns": columns, "rows": rows}) == (
        "| a | b | c | d | d |\n|---|---|---|---|---|\n"
        "| 1.0, 2.0; 3.0 | | none | .050 | 0.05 |\n"
        "| 1.0, 2.0; 3.0 | | none | **0.1** | 0.05 |\n"
    )


def numbers(thing):
    """Every number of a record."""
    if isinstance(thing, dict | list):
        items = thing.values() if isinstance(thing, dict) else thing
        return [number for item in items for number in numbers(item)]
    return [thing] if isinstance(thing, int | float) else []


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_says_how_it_was_measured(name):
    record = RECORDS[name]
    assert [key for key in tables.NEEDED if not record[key]] == []
    for row in record["rows"]:
        assert {*row.get("columns", {})} <= {*record["columns"]}


@pytest.mark.parametrize("name", [n for n in RECORDS if "from" in RECORDS[n]])
def test_figures_of_other_records_are_theirs(name):
    sources = [RECORDS[source] for source in RECORDS[name]["from"]]
    assert {*numbers(RECORDS[name]["rows"])} <= {*numbers(sources)}


def without_a_record(text):
    """First row with a figure of each table that has neither mark above it."""
    found, above = [], ""
    lines = tables.MARKED.sub("a table", text).splitlines()
    parts = itertools.groupby(lines, lambda line: line.lstrip()[:1] == "|")
    for is_table, part in parts:
        part = [line for line in part if line]
        figures = [line for line in part if re.search(r"\d\.\d", line)]
        if not is_table:
            above = part[-1] if part else ""
        elif figures and not re.fullmatch(EXCUSE, above):
            found.append(figures[0])
    return found


def test_figures_in_tables_have_records():
    found = {p: without_a_record(p.read_text("utf-8")) for p in tables.pages()}
    assert {page: rows for page, rows in found.items() if rows} == {}


def test_a_table_without_a_record_is_found():
    table = "| a | 1 |\n|---|---|\n| b | 2.5 |\n"
    marked = f"<!-- table: one -->\n\n{table}\n<!-- end of table -->\n"
    excused = f"text\n<!-- no results: settings -->\n\n{table}"
    assert without_a_record(f"{marked}\n{excused}\n{table}") == ["| b | 2.5 |"]
    assert without_a_record(excused.replace("settings", "")) == ["| b | 2.5 |"]
    assert without_a_record(table.replace("2.5", "2")) == []
