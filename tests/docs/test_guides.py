"""Every cell of every guide runs, in order, on PyTorch as for `make docs`."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("docs/conf.py runs them on PyTorch", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
pytestmark = [
    # Other packages' own, of which a reader sees nothing (`nb_output_stderr`).
    pytest.mark.filterwarnings("default"),
]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    cells = CELL.findall(path.read_text("utf-8"))
    assert cells
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    if 'environ["KERAS_BACKEND"]' in cells[0]:  # needs a process of its own
        folders = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(cells)],
            env={**os.environ, "PYTHONPATH": folders},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return
    names = {"__name__": path.stem}
    with contextlib.redirect_stdout(None):
        for cell in cells:
            exec(compile(cell, str(path), "exec"), names)
