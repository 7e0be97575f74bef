"""Presets of MDM: constructor keywords, recipe, expected result, command.

`mdm_text8` has the sizes and the recipe of the paper
(docs/method.md#masked-diffusion).
"""

from keras_dblocks.applications.recipes import (
    TEXT,
    TEXT_OF_THE_PAPER,
    with_commands,
)

_SMALL = {"vocabulary_size": 27, "sequence_length": 128, "num_layers": 6}
_SMALL |= {"num_blocks": 3, "hidden_dim": 128, "num_heads": 4}
_PAPER = {**_SMALL, "sequence_length": 256, "num_layers": 12}
_PAPER |= {"hidden_dim": 768, "num_heads": 12}

PRESETS = {
    "mdm_demo": {
        "description": "text that ships with Python; minutes on two cores",
        "config": {**_SMALL, "sequence_length": 64, "hidden_dim": 64},
        "training": {**TEXT, "data": "python", "epochs": 2},
        "expected": "not measured yet",
    },
    "mdm_austen": {
        "description": "six novels in 27 symbols; a GPU, or a day on two cores",
        "config": {**_SMALL, "num_layers": 12, "hidden_dim": 256},
        "training": {
            **TEXT,
            "data": "austen.txt",
            "epochs": 9,
            "batch_size": 64,
            "learning_rate": 1e-3,
        },
        "expected": "not measured with states handed over; 2.016 bits per "
        "character without, one block 2.048, layer-matched 2.006 (README.md)",
    },
    "mdm_text8": {
        "description": "text8, with the paper's sizes and recipe; a GPU",
        "config": _PAPER,
        "training": {
            **TEXT_OF_THE_PAPER,
            "data": "text8",
            "epochs": 100,
            "warmup_steps": 2000,
        },
        "expected": "not measured here; the paper: 1.45 bits per character, "
        "one block 1.56",
    },
}
with_commands("mdm", PRESETS)
