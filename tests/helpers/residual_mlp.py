"""The network of `examples/residual_mlp.py`, as a user would write it."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "residual_mlp.py"


def load():
    # Once: a class can be registered for saving once.
    spec = importlib.util.spec_from_file_location("residual_mlp", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load()
