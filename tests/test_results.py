"""Tables of the documentation are those of the records in `results/`."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.once


def load():
    path = ROOT / "tools" / "tables.py"
    spec = importlib.util.spec_from_file_location("tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load()
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
    assert used == {path.stem for path in (ROOT / "results").glob("*.json")}


def test_a_table_is_written(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(RECORD))
    page = "before\n\n<!-- table: one -->\nold\n<!-- end of table -->\nafter\n"
    wanted = (
        "before\n\n<!-- table: one -->\n\n| row | found, % |\n| --- | --- |\n"
        "| **a** | 1.2, 2.0 |\n| **b** | 3.0 |\n\n"
        "<!-- end of table -->\nafter\n"
    )
    assert tables.written(page, tmp_path) == wanted
    assert tables.written(wanted, tmp_path) == wanted


def test_a_record_without_its_command_is_refused():
    with pytest.raises(ValueError, match="Received: one without command"):
        tables.table({k: v for k, v in RECORD.items() if k != "command"})
