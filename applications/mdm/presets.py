"""Presets of MDM: constructor keywords, recipe, expected result, command.

`training` is the recipe of the train program; its `epochs` are those of one
block (ordinary masked diffusion), and blocks run `num_blocks` times as many.
The large one has the paper's sizes and recipe (METHOD 6.3).
"""

_RECIPE = {
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "alpha": 0.05,  # share of the learning rate at the end of the cosine
    "weight_decay": 0.03,
    "clipnorm": 1.0,
    "start_share": 0.75,  # of the steps, for what all blocks start from
}
_SMALL = {"vocabulary_size": 27, "sequence_length": 128, "num_layers": 6}
_SMALL |= {"num_blocks": 3, "hidden_dim": 128, "num_heads": 4}

PRESETS = {
    "mdm_demo": {
        "description": "text that ships with Python; minutes on two cores",
        "config": {**_SMALL, "sequence_length": 64, "hidden_dim": 64},
        "training": {**_RECIPE, "data": "python", "epochs": 2},
        "expected": "not measured yet",
    },
    "mdm_austen": {
        "description": "six novels in 27 symbols; a GPU, or a day",
        "config": {**_SMALL, "num_layers": 12, "hidden_dim": 256},
        "training": {
            **_RECIPE,
            "data": "austen.txt",
            "epochs": 9,
            "batch_size": 64,
            "learning_rate": 1e-3,
        },
        "expected": "2.016 bits per character, one block 2.048, layer-matched "
        "2.006 (README.md)",
    },
    "mdm_text8": {
        "description": "text8, the paper's sizes and recipe; a GPU",
        "config": {
            **_SMALL,
            "sequence_length": 256,
            "num_layers": 12,
            "hidden_dim": 768,
            "num_heads": 12,
        },
        "training": {
            **_RECIPE,
            "data": "text8",
            "epochs": 100,
            "batch_size": 256,
            "learning_rate": 3e-4,
            "warmup_steps": 2000,
            "alpha": 1.0,
        },
        "expected": "not measured here; the paper: 1.45, one block 1.56",
    },
}

for _name, _preset in PRESETS.items():
    _program = "python -m keras_dblocks.applications.mdm"
    _preset["command"] = f"{_program} --preset {_name}"
