"""Presets of DiT: constructor keywords, recipe, expected result, command.

`training` is the recipe of the train program; its `epochs` are those of one
block (the ordinary DiT), and blocks run `num_blocks` times as many, so that
both take the same number of layer evaluations. The two large ones have the
paper's sizes and recipe (METHOD 6.2); what it does not say is DiT's: no
weight decay, a constant learning rate, flips, an average of 0.9999.
"""

_SMALL = {"channels": 1, "num_classes": 10, "num_layers": 6, "num_blocks": 3}
_SMALL |= {"hidden_dim": 64, "num_heads": 4}

_RECIPE = {
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_epochs": 1,
    "alpha": 0.05,  # share of the learning rate at the end of the cosine
    "weight_decay": 0.0,
    "clipnorm": 1.0,
    "augmentation": "none",
}
_PAPER = {**_RECIPE, "epochs": 100, "batch_size": 512, "alpha": 1.0}

PRESETS = {
    "dit_digits": {
        "description": "scikit-learn's digits, 8x8; minutes on two cores",
        "config": {**_SMALL, "image_size": 8, "patch_size": 2},
        "training": {**_RECIPE, "data": "digits"},
        "expected": "1,500 steps of 64, blocks 4,500: Frechet distance "
        "0.99, one block 1.41 (one seed; README.md)",
    },
    "dit_fashion_mnist": {
        "description": "Fashion-MNIST, 28x28; hours on two cores",
        "config": {**_SMALL, "image_size": 28, "patch_size": 4},
        "training": {**_RECIPE, "data": "fashion_mnist", "batch_size": 128},
        "expected": "1,000 steps of 128, blocks 3,000: Frechet distance 6.61, "
        "one block 9.89, layer-matched 6.54 (means of 2 seeds; README.md)",
    },
    "dit_s2_cifar10": {
        "description": "CIFAR-10, the paper's sizes and recipe; a GPU",
        "config": {
            "image_size": 32,
            "channels": 3,
            "num_classes": 10,
            "patch_size": 2,
            "hidden_dim": 384,
            "num_heads": 6,
            "num_layers": 12,
            "num_blocks": 3,
        },
        "training": {
            **_PAPER,
            "data": "cifar10",
            "learning_rate": 1e-4,
            "augmentation": "flip",
        },
        "expected": "not measured here; the paper: FID 37.20, its DiT 39.83",
    },
    "dit_l2_imagenet256": {
        "description": "ImageNet latents 32x32x4, the paper's; a GPU",
        "config": {
            "image_size": 32,
            "channels": 4,
            "num_classes": 1000,
            "patch_size": 2,
            "hidden_dim": 1024,
            "num_heads": 16,
            "num_layers": 24,
            "num_blocks": 3,
            "value_range": None,
        },
        "training": {
            **_PAPER,
            "data": "imagenet_latents.npy",
            "learning_rate": 5e-5,
        },
        "expected": "not measured here; the paper: FID 10.63, its DiT 12.09",
    },
}

for _name, _preset in PRESETS.items():
    _program = "python -m keras_dblocks.applications.dit"
    _preset["command"] = f"{_program} --preset {_name}"
