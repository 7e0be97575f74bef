"""Presets of ARTransformer: constructor keywords, recipe, expected result.

`ar_lm1b` and `ar_owt` have the sizes and the recipe of the paper
(docs/method.md#autoregression).
"""

from keras_dblocks.applications.recipes import (
    TEXT,
    TEXT_OF_THE_PAPER,
    with_commands,
)

_SMALL = {"sequence_length": 128, "num_layers": 6, "num_blocks": 3}
_SMALL |= {"hidden_dim": 128, "num_heads": 4}
_PAPER = {"num_layers": 12, "num_blocks": 4, "overlap": 0.1}
_PAPER |= {"hidden_dim": 768, "num_heads": 12, "vocabulary_size": 32_000}
_PAPER_RECIPE = {**TEXT_OF_THE_PAPER, "epochs": 10}

PRESETS = {
    "ar_demo": {
        "description": "text that ships with Python; minutes on two cores",
        "config": {**_SMALL, "sequence_length": 64, "hidden_dim": 64},
        "training": {**TEXT, "data": "python"},
        "expected": "not measured",
    },
    "ar_austen_tiny": {
        "description": "six novels in 27 symbols; half an hour on two cores",
        "config": {**_SMALL, "hidden_dim": 48, "vocabulary_size": 27},
        "training": {**TEXT, "data": "austen.txt"},
        "expected": "1.243 nats per character (one seed; its weights come with "
        "the package)",
    },
    "ar_austen": {
        "description": "six novels; a GPU, or a day on two cores",
        "config": {**_SMALL, "num_layers": 12, "hidden_dim": 256},
        "training": {
            **TEXT,
            "data": "austen.txt",
            "epochs": 2,
            "batch_size": 64,
            "learning_rate": 1e-3,
        },
        "expected": "not measured since one stream is the default (README.md)",
    },
    "ar_lm1b": {
        "description": "news, with the paper's sizes and recipe; a GPU",
        "config": {**_PAPER, "sequence_length": 256},
        "training": {**_PAPER_RECIPE, "data": "lm1b"},
        "expected": "not measured here; the paper: MAUVE 0.71, twin 0.50",
    },
    "ar_owt": {
        "description": "web text, with the paper's sizes and recipe; a GPU",
        "config": {**_PAPER, "sequence_length": 1024},
        "training": {**_PAPER_RECIPE, "data": "owt.txt"},
        "expected": "not measured here; the paper: MAUVE 0.82, twin 0.85",
    },
}
with_commands("ar", PRESETS)
