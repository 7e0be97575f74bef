"""Presets of ARTransformer: constructor keywords, recipe, expected result.

`training` is the recipe of the train program; its `epochs` are those of the
end-to-end twin, and blocks run `num_blocks` times as many. The large ones
have the paper's sizes and recipe (METHOD 6.4).
"""

_RECIPE = {
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "alpha": 0.05,  # share of the learning rate at the end of the cosine
    "weight_decay": 0.03,
    "clipnorm": 1.0,
    "in_sequence": True,  # block after block, from the last one's weights
}
_SMALL = {"sequence_length": 128, "num_layers": 6, "num_blocks": 3}
_SMALL |= {"hidden_dim": 128, "num_heads": 4}
_PAPER = {"num_layers": 12, "num_blocks": 4, "overlap": 0.1}
_PAPER |= {"hidden_dim": 768, "num_heads": 12, "vocabulary_size": 32_000}
_PAPER_RECIPE = {
    **_RECIPE,
    "epochs": 10,
    "batch_size": 256,
    "learning_rate": 3e-4,
    "warmup_steps": 2500,
    "alpha": 1.0,
}

PRESETS = {
    "ar_demo": {
        "description": "text that ships with Python; minutes on two cores",
        "config": {**_SMALL, "sequence_length": 64, "hidden_dim": 64},
        "training": {**_RECIPE, "data": "python"},
        "expected": "not measured",
    },
    "ar_austen": {
        "description": "six novels; a GPU, or a day",
        "config": {**_SMALL, "num_layers": 12, "hidden_dim": 256},
        "training": {
            **_RECIPE,
            "data": "austen.txt",
            "epochs": 2,
            "batch_size": 64,
            "learning_rate": 1e-3,
        },
        "expected": "in bytes, with a common start: 1.142 nats, twin 1.185, "
        "layer-matched 1.137; in sequence not measured at this size",
    },
    "ar_lm1b": {
        "description": "news, the paper's sizes and recipe; a GPU",
        "config": {**_PAPER, "sequence_length": 256},
        "training": {**_PAPER_RECIPE, "data": "lm1b"},
        "expected": "not measured here; the paper: MAUVE 0.71, twin 0.50",
    },
    "ar_owt": {
        "description": "web text, the paper's sizes and recipe; a GPU",
        "config": {**_PAPER, "sequence_length": 1024},
        "training": {**_PAPER_RECIPE, "data": "owt.txt"},
        "expected": "not measured here; the paper: MAUVE 0.82, twin 0.85",
    },
}

for _name, _preset in PRESETS.items():
    _program = "python -m keras_dblocks.applications.ar"
    _preset["command"] = f"{_program} --preset {_name}"
