"""Presets and published sizes of ViT; models are not built unless small."""

import math
import shlex

import pytest

from keras_dblocks.applications import (
    ViT,
    ViTB16,
    ViTL16,
    ViTS16,
    ViTTi16,
)
from keras_dblocks.applications.data import augmentation
from keras_dblocks.applications.data.images import READERS
from keras_dblocks.applications.program.parser import parse
from keras_dblocks.applications.program.systems import system_of
from keras_dblocks.applications.vit.presets import PRESETS

RECIPE = {"data", "epochs", "batch_size", "learning_rate", "warmup_epochs"}
RECIPE |= {"alpha", "weight_decay", "clipnorm", "augmentation"}
SIZES = (
    "image_size",
    "num_classes",
    "channels",
    "patch_size",
    "hidden_dim",
    "num_heads",
    "intermediate_dim",
)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_constructs_a_model(name):
    preset = PRESETS[name]
    model = ViT.from_preset(name, load_weights=False)
    assert not model.built
    config = model.get_config()
    assert {k: config[k] for k in preset["config"]} == preset["config"]
    layers = config["num_layers"] // config["num_blocks"]
    assert list(model.layers_per_block) == [layers] * config["num_blocks"]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_says_how_to_train_it(name):
    preset = PRESETS[name]
    recipe = preset["training"]
    assert set(recipe) == RECIPE
    assert set(preset.get("reference_training", {})) <= RECIPE
    assert recipe["data"] in READERS
    augmentation(recipe["augmentation"], preset["config"]["channels"])
    assert preset["description"] and preset["expected"]
    python, flag, module, *arguments = shlex.split(preset["command"])
    assert (python, flag) == ("python", "-m")
    assert module == "keras_dblocks.applications.vit"
    assert parse(ViT, system_of(ViT), "vit", arguments).preset == name


def test_from_preset_takes_keywords():
    model = ViT.from_preset("vit_cifar100", num_blocks=4, dropout=0.0)
    assert model.num_blocks == 4 and model.dropout == 0.0
    assert model.hidden_dim == 128 and model.intermediate_dim == 3072
    assert PRESETS["vit_cifar100"]["config"]["num_blocks"] == 3
    with pytest.raises(ValueError, match="vit_digits.*or a folder"):
        ViT.from_preset("vit_mnist")


def test_a_width_below_the_noise_embedding_divisor():
    sizes = dict(image_size=4, num_classes=2, num_layers=2, num_blocks=2)
    model = ViT(hidden_dim=4, num_heads=2, **sizes)  # 4 // 6 is 0
    model.build()
    assert model.block(1).noise_embedding.output_dim == 1


@pytest.mark.once
def test_presets_have_the_sizes_of_the_paper():
    cifar = PRESETS["vit_cifar100"]["config"]
    tiny = PRESETS["vit_tiny_imagenet"]["config"]
    names = ("hidden_dim", "num_heads", "intermediate_dim", "num_blocks")
    assert [cifar[n] for n in names] == [128, 4, 3072, 3]
    assert [tiny[n] for n in names] == [768, 12, 3072, 2]
    for config in (cifar, tiny):
        assert (config["num_layers"], config["patch_size"]) == (12, 4)


def parameters(model):
    if isinstance(model, ViT):
        model.build()
    return sum(math.prod(v.shape) for v in model.trainable_variables)


@pytest.mark.eager
@pytest.mark.parametrize("blocks, published", [(False, 10.30), (True, 10.53)])
def test_cifar100_has_the_parameters_of_the_paper(blocks, published):
    # In millions (docs/method.md#image-classification), extrapolated from
    # models of 1 and 2 layers: every layer has equally many.
    config = dict(PRESETS["vit_cifar100"]["config"])
    make = ViT if blocks else ViT.end_to_end
    one, two = (
        parameters(make(**{**config, "num_layers": n, "num_blocks": 1}))
        for n in (1, 2)
    )
    assert (one + 11 * (two - one)) / 1e6 == pytest.approx(published, abs=5e-3)


def twin_parameters(model):
    """Those of the end-to-end twin, by arithmetic."""
    d, inside = model.hidden_dim, 4 * model.hidden_dim
    patch = model.patch_size**2 * model.channels
    tokens = 1 + (model.image_size // model.patch_size) ** 2
    stem = patch * d + d + d + tokens * d
    layer = 4 * (d * d + d) + 2 * d * inside + inside + d + 4 * d
    head = 2 * d + d * model.num_classes + model.num_classes
    return stem + model.num_layers * layer + head


# As in timm: vit_tiny, small, base and large _patch16_224.
@pytest.mark.parametrize(
    "make, heads, published",
    [
        (ViTTi16, 3, 5_717_416),
        (ViTS16, 6, 22_050_664),
        (ViTB16, 12, 86_567_656),
        (ViTL16, 16, 304_326_632),
    ],
)
def test_sizes_are_the_published_ones(make, heads, published):
    model = make()
    assert not model.built and model.num_heads == heads
    assert model.num_blocks == 3 and model.patch_size == 16
    assert model.intermediate_dim in (None, 4 * model.hidden_dim)
    assert twin_parameters(model) == published


def test_smallest_size_built():
    model = ViTTi16(name="other")
    keywords = {name: getattr(model, name) for name in SIZES}
    twin = ViT.end_to_end(num_layers=model.num_layers, **keywords)
    assert twin.count_params() == twin_parameters(model) == 5_717_416


def test_sizes_take_keywords():
    model = ViTTi16((64, 64, 1), classes=7, num_blocks=4, dropout=0.2)
    assert (model.image_size, model.channels, model.num_classes) == (64, 1, 7)
    assert (model.num_blocks, model.dropout) == (4, 0.2)
    assert model.name == "vitti16" and ViTTi16.__name__ == "ViTTi16"
    with pytest.raises(ValueError, match="square.*Received.*Crop"):
        ViTTi16(input_shape=(224, 192, 3))
    with pytest.raises(ValueError, match="divide the layers"):
        ViTS16(num_blocks=5)
