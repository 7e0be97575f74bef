"""Presets of RecurrentDepth: constructor keywords, recipe, expected result.

`recurrent_lm1b` has the sizes of the paper, which are the widths of
Pythia-70M (docs/method.md#recurrent-depth).
"""

from keras_dblocks.applications.recipes import (
    TEXT,
    TEXT_OF_THE_PAPER,
    with_commands,
)

_SMALL = {"sequence_length": 64, "hidden_dim": 96, "num_heads": 4}
_PAPER = {"sequence_length": 256, "hidden_dim": 512, "num_heads": 8}
_PAPER |= {"vocabulary_size": 32_000}

PRESETS = {
    "recurrent_demo": {
        "description": "text that ships with Python; minutes on two cores",
        "config": {**_SMALL, "hidden_dim": 64},
        "training": {**TEXT, "data": "python"},
        "expected": "not measured",
    },
    "recurrent_austen": {
        "description": "six novels; an hour on two cores",
        "config": _SMALL,
        "training": {**TEXT, "data": "austen.txt"},
        "expected": "1.24 nats per character after 2,100 steps of 16 sequences "
        "(two seeds), Huginn 1.63 in the same time",
    },
    "recurrent_lm1b": {
        "description": "news, with the paper's sizes; a GPU",
        "config": _PAPER,
        "training": {**TEXT_OF_THE_PAPER, "data": "lm1b", "epochs": 15},
        "expected": "not measured here; the paper: MAUVE 0.70, twin 0.49",
    },
}
with_commands("recurrent_depth", PRESETS)
