"""Presets of RecurrentDepth: constructor keywords, recipe, expected result.

The large one has the paper's sizes (METHOD 6.5; Pythia-70M's widths).
"""

_RECIPE = {
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "alpha": 0.05,  # share of the learning rate at the end of the cosine
    "weight_decay": 0.03,
    "clipnorm": 1.0,
}
_SMALL = {"sequence_length": 64, "hidden_dim": 96, "num_heads": 4}

PRESETS = {
    "recurrent_demo": {
        "description": "text that ships with Python; minutes on two cores",
        "config": {**_SMALL, "hidden_dim": 64},
        "training": {**_RECIPE, "data": "python"},
        "expected": "not measured",
    },
    "recurrent_austen": {
        "description": "six novels; an hour on two cores",
        "config": _SMALL,
        "training": {**_RECIPE, "data": "austen.txt"},
        "expected": "1.24 nats after 2,100 steps of 16 sequences (two seeds), "
        "Huginn 1.63 in as much time",
    },
    "recurrent_lm1b": {
        "description": "news, the paper's sizes; a GPU",
        "config": {
            "sequence_length": 256,
            "hidden_dim": 512,
            "num_heads": 8,
            "vocabulary_size": 32_000,
        },
        "training": {
            **_RECIPE,
            "data": "lm1b",
            "epochs": 15,
            "batch_size": 256,
            "learning_rate": 3e-4,
            "warmup_steps": 2500,
            "alpha": 1.0,
        },
        "expected": "not measured here; the paper: MAUVE 0.70, twin 0.49",
    },
}

for _name, _preset in PRESETS.items():
    _program = "python -m keras_dblocks.applications.recurrent_depth"
    _preset["command"] = f"{_program} --preset {_name}"
