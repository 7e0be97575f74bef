"""The front page: short, and what it shows runs."""

import ast
import os
import re
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.once
def test_it_is_short():
    shown = re.sub(r"<!--.*?-->", "", README)
    assert len(shown.split()) <= 500


@pytest.mark.eager
def test_its_first_example_runs_and_what_it_saves_loads(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")  # of the extra `data`
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len(ast.parse(code).body) <= 10
    fast = code.replace("epochs=30", "epochs=1, verbose=0")
    assert fast != code
    names = {}
    exec(fast, names)
    assert os.listdir(tmp_path) == ["digits.keras"]
    loaded = keras.saving.load_model("digits.keras")
    assert loaded.predict(names["x"][:3], verbose=0).shape == (3, 10)
