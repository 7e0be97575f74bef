"""Every size of every constructor is checked."""

import pytest

from helpers.small_systems import SYSTEMS
from helpers.small_vit import refused
from keras_dblocks import applications, layers
from keras_dblocks.applications.images.sizes import patch_size_for

SIZES = {
    "ViT": "image_size num_classes channels patch_size num_layers num_blocks "
    "hidden_dim num_heads intermediate_dim",
    "DiT": "image_size num_classes channels patch_size num_layers num_blocks "
    "hidden_dim num_heads intermediate_dim",
    "MDM": "vocabulary_size sequence_length num_layers num_blocks hidden_dim "
    "num_heads intermediate_dim conditioning_dim",
    "ARTransformer": "vocabulary_size sequence_length num_layers num_blocks "
    "hidden_dim num_heads num_key_value_heads intermediate_dim "
    "conditioning_dim",
    "RecurrentDepth": "vocabulary_size sequence_length core_layers hidden_dim "
    "num_heads intermediate_dim conditioning_dim",
}
CASES = [(k, name) for k, names in SIZES.items() for name in names.split()]
LAYERS = [
    (layers.TransformerLayer, {"num_heads": 2, "intermediate_dim": 4}),
    (layers.PatchEmbedding, {"patch_size": 2, "hidden_dim": 4}),
    (layers.NoiseEmbedding, {"output_dim": 4, "frequencies": 8}),
    (layers.SelfAttention, {"num_heads": 2}),
    (layers.LabelEmbedding, {"num_classes": 2, "dim": 4}),
]
pytestmark = pytest.mark.once


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("value", [0, -3, 2.5, "4"], ids=repr)
def test_sizes_of_models(kind, name, value):
    config = next(c for k, c in SYSTEMS.values() if k == kind)
    cls = getattr(applications, kind)
    message = refused(lambda: cls(**{**config, name: value}), f"{name}=")
    assert repr(value) in message


@pytest.mark.parametrize("name", ["num_classes", "channels", "num_layers"])
def test_sizes_of_twins(name):
    config = {**SYSTEMS["vit"][1], name: 0}
    refused(lambda: applications.ViT.end_to_end(**config), f"{name}=0")


@pytest.mark.parametrize(("kind", "config"), LAYERS)
def test_sizes_of_layers(kind, config):
    for name in config:
        refused(lambda name=name: kind(**{**config, name: 0}), f"{name}=0")


@pytest.mark.parametrize(
    ("image_size", "patch_size", "wanted"),
    [
        (16, 2, 2),  # 64 patches
        (15, 2, 2),  # few, but it does not divide: refused elsewhere
        (64, 8, 8),
        (64, 2, 8),
        (63, 2, 9),
        (224, 4, 28),
        (97, 2, 2),  # a prime: there is none
    ],
)
def test_patches_of_large_images_are_larger(image_size, patch_size, wanted):
    assert patch_size_for(image_size, patch_size) == wanted
