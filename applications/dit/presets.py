"""Presets of DiT: constructor keywords, recipe, expected result, command.

`dit_s2_cifar10` and `dit_l2_imagenet256` have the sizes and the recipe of the
paper (docs/method.md#image-generation). What the paper does not say is taken
from DiT: no weight decay, a constant learning rate, horizontal flips, and
moving averages of the weights with momentum 0.9999.
"""

from keras_dblocks.applications.recipes import IMAGES, with_commands

_SMALL = {"channels": 1, "num_classes": 10, "num_layers": 6, "num_blocks": 3}
_SMALL |= {"hidden_dim": 64, "num_heads": 4}

_PAPER = {"image_size": 32, "patch_size": 2, "num_blocks": 3}

_RECIPE = {**IMAGES, "epochs": 30, "batch_size": 64, "weight_decay": 0.0}
_PAPER_RECIPE = {**_RECIPE, "epochs": 100, "batch_size": 512, "alpha": 1.0}

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
        "description": "CIFAR-10, with the paper's sizes and recipe; a GPU",
        "config": {
            **_PAPER,
            "channels": 3,
            "num_classes": 10,
            "hidden_dim": 384,
            "num_heads": 6,
            "num_layers": 12,
        },
        "training": {
            **_PAPER_RECIPE,
            "data": "cifar10",
            "learning_rate": 1e-4,
            "augmentation": "flip",
        },
        "expected": "not measured here; the paper: FID 37.20, its DiT 39.83",
    },
    "dit_l2_imagenet256": {
        "description": "ImageNet latents 32x32x4, the paper's sizes; a GPU",
        "config": {
            **_PAPER,
            "channels": 4,
            "num_classes": 1000,
            "hidden_dim": 1024,
            "num_heads": 16,
            "num_layers": 24,
            "value_range": None,
        },
        "training": {
            **_PAPER_RECIPE,
            "data": "imagenet_latents.npy",
            "learning_rate": 5e-5,
        },
        "expected": "not measured here; the paper: FID 10.63, its DiT 12.09",
    },
}
with_commands("dit", PRESETS)
