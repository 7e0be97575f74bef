"""Presets of ViT: constructor keywords, recipe, expected result, command.

`reference_training`, where a preset has it, holds the entries of the recipe
that `--reference` changes. `vit_cifar100` and `vit_tiny_imagenet` have the
sizes and the recipe of the paper, and the values of its published code where
the paper does not say (docs/method.md#image-classification).
"""

from keras_dblocks.applications.recipes import IMAGES, with_commands

_SMALL = {"channels": 1, "num_classes": 10, "num_layers": 6, "num_blocks": 3}
_SMALL |= {"hidden_dim": 64, "num_heads": 4}

_PAPER = {"channels": 3, "num_layers": 12, "intermediate_dim": 3072}
_PAPER |= {"patch_size": 4, "dropout": 0.1}

_RECIPE = {**IMAGES, "epochs": 15, "batch_size": 32, "weight_decay": 0.01}
_PAPER_RECIPE = {
    **_RECIPE,
    "warmup_epochs": 10,
    "augmentation": "flip_randaugment",
}

PRESETS = {
    "vit_digits": {
        "description": "scikit-learn's digits, 8x8; minutes on two cores",
        "config": {**_SMALL, "image_size": 8, "patch_size": 2},
        "training": {**_RECIPE, "data": "digits"},
        "expected": "ours 97.99 %, end-to-end twin 97.22 %, layer-matched twin "
        "97.78 % (means of 4 seeds; README.md)",
    },
    "vit_fashion_mnist": {
        "description": "Fashion-MNIST, 28x28; hours on two cores",
        "config": {**_SMALL, "image_size": 28, "patch_size": 4},
        "training": {**_RECIPE, "data": "fashion_mnist", "batch_size": 128},
        "expected": "10,000 images, 8 epochs: ours 83.95 %, end-to-end twin "
        "83.58 %, layer-matched twin 82.80 %, the paper's settings 59.67 % "
        "(means of 2 seeds; README.md)",
    },
    "vit_cifar100": {
        "description": "CIFAR-100, with the paper's sizes and recipe; a GPU",
        "config": {
            **_PAPER,
            "image_size": 32,
            "num_classes": 100,
            "hidden_dim": 128,
            "num_heads": 4,
            "num_blocks": 3,
        },
        "training": {
            **_PAPER_RECIPE,
            "data": "cifar100",
            "epochs": 500,
            "batch_size": 128,
            "learning_rate": 5e-4,
        },
        "expected": "not measured here; the paper: 59.30 %, its twin 60.25 %",
    },
    "vit_tiny_imagenet": {
        "description": "Tiny-ImageNet, the paper's sizes and recipe; a GPU",
        "config": {
            **_PAPER,
            "image_size": 64,
            "num_classes": 200,
            "hidden_dim": 768,
            "num_heads": 12,
            "num_blocks": 2,
        },
        "training": {
            **_PAPER_RECIPE,
            "data": "tiny_imagenet",
            "epochs": 100,
            "batch_size": 256,
            "learning_rate": 1e-4,
        },
        "expected": "not measured here; the paper: 36.16 %, its twin 35.32 %",
    },
}
with_commands("vit", PRESETS)
