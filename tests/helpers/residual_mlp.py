"""The network of `examples/residual_mlp.py`, as a user would write it."""

from helpers.programs import ROOT, load

EXAMPLE = ROOT / "examples" / "residual_mlp.py"
example = load(EXAMPLE)  # once: a class can be registered for saving once
