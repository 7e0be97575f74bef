"""Programs that no package holds, and the processes that tests start."""

import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    """The module of a program of the checkout, such as `"tools/tables.py"`."""
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**more):
    """Of a process that imports `helpers`, and this checkout."""
    folders = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": folders, **more}
