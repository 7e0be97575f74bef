"""Blocks leave the model, are trained apart, and come back whole."""

import importlib.util
import math
import zipfile

import keras
import numpy as np
import pytest

from helpers import small_vit
from helpers.small_vit import (
    SIZES,
    data,
    equal,
    predict,
    python,
    refused,
    values,
)
from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications import ViT

THREE = {"num_layers": 3, "num_blocks": 3}
APART = {**THREE, "sharing": "targets", "seed": 4}


def make(initial=0, **kwargs):
    return small_vit.make(initial, **{**THREE, **kwargs})


def move(block, seed=1):
    """Other weights, as if the block had been trained."""
    rng = np.random.default_rng(seed)
    for v in block.trainable_variables:
        v.assign(v + rng.normal(0, 0.1, v.shape).astype("float32"))


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Block files, each from another model, and the blocks' weights."""
    folder = tmp_path_factory.mktemp("apart")
    paths, weights = [], []
    for i in range(3):
        block = make(i, **APART).block(i)
        move(block, seed=i)
        paths.append(folder / f"block_{i}.keras")
        block.save(paths[-1])
        weights.append(values(block.weights))
    return paths, weights


# One block in memory.


@pytest.mark.eager
@pytest.mark.parametrize("sharing", ["all", "targets"])
def test_one_block_builds_alone(tmp_path, sharing):
    model = make(sharing=sharing)
    block = model.block(1)
    # AdamW keeps two moments per weight, a step count and a learning rate.
    block.compile("adamw")
    block.fit(*data(), batch_size=8, verbose=0)
    block.save(tmp_path / "block_1.keras")
    assert [b.built for b in model.blocks] == [False, True, False]
    parts = [*block.residual_layers, block.noise_embedding, block.stem]
    parts += [block.readout, block.head]
    if sharing == "all":
        parts.append(block.target)  # else the table is fixed
    trained = sum(part.count_params() for part in parts)
    sizes = [math.prod(v.shape) for v in block.optimizer.variables]
    assert sum(sizes) == 2 * trained + 2
    assert len(sizes) == 2 * len(block.trainable_variables) + 2
    for other in (model.blocks[0], model.blocks[2]):
        assert not other.compiled
        assert not any(layer.built for layer in other.residual_layers)
        assert not any(layer.variables for layer in other.residual_layers)
        assert other.stem.built == (sharing == "all")


def test_whole_model_after_one_block():
    model = make()
    block = model.block(2)
    move(block)
    before = values(block.weights)
    model.build()
    assert model.blocks[2] is block
    assert equal(values(block.weights), before)
    assert predict(model).shape == (24, 4)


# Putting a block back.


@pytest.mark.eager
def test_load_block_puts_it_back(apart):
    paths, weights = apart
    model = make(9, **APART)
    model.build()
    first = predict(model)  # compiled with the old weights
    others = values(model.blocks[0].weights)
    model.load_block(paths[1])
    assert equal(values(model.blocks[1].weights), weights[1])
    assert equal(values(model.blocks[0].weights), others)
    second = predict(model)
    assert not np.array_equal(first, second)
    # The same answers as the block gives by itself.
    block = keras.saving.load_model(paths[1])
    np.testing.assert_array_equal(predict(model.block(1)), predict(block))


def test_load_block_into_its_own_model(tmp_path):
    model = make()  # sharing="all": the block holds the model's own stem
    block = model.block(0)
    move(block)
    before = values(block.weights)
    block.save(tmp_path / "block_0.keras")
    for layer in block.residual_layers:
        for v in layer.trainable_variables:
            v.assign(v + 1)
    model.load_block(str(tmp_path / "block_0.keras"))
    assert equal(values(block.weights), before)


def test_load_block_of_the_only_block(tmp_path):
    one = make(num_blocks=1)  # nothing to share: no stem can differ
    move(one.block(0))
    one.block(0).save(tmp_path / "block_0.keras")
    model = make(initial=3, num_blocks=1)
    model.load_block(tmp_path / "block_0.keras")
    assert equal(values(model.blocks[0].weights), values(one.blocks[0].weights))


@pytest.fixture(scope="module")
def model():
    model = make(9, **APART)
    model.compile("adamw")
    return model


OTHER_MODELS = {
    "fewer blocks": ({"num_blocks": 1}, "partition"),
    "more layers": ({"num_layers": 6}, "partition"),
    "uneven": ({"num_layers": 4, "layers_per_block": [1, 1, 2]}, "partition"),
    "other ranges": ({"partition": "log_uniform"}, "partition"),
    "wider": ({"hidden_dim": 24}, "hidden_dim"),
    "more classes": ({"num_classes": 5}, "num_classes"),
    "other patches": ({"patch_size": 2}, "patch_size"),
    "shared": ({"sharing": "all"}, "sharing"),
    "other table": ({"seed": 5}, "labels/table"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", OTHER_MODELS)
def test_blocks_of_other_models_are_refused(model, apart, tmp_path, name):
    kwargs, match = OTHER_MODELS[name]
    path = tmp_path / "other.keras"
    make(9, **{**APART, **kwargs}).block(0).save(path)
    message = refused(lambda: model.load_block(path), match, model)
    assert "other.keras" in message
    paths = [*apart[0][1:], path]
    refused(lambda: ViT.from_blocks(paths), match, model)


def test_files_that_are_no_block_are_refused(model, tmp_path):
    model.save(tmp_path / "model.keras")
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    plain.save(tmp_path / "plain.keras")
    for name, match in (
        ("model.keras", "with a ViT"),
        ("plain.keras", "with a Sequential"),
        ("missing.keras", "cannot be read"),
    ):
        path = tmp_path / name
        refused(lambda path=path: model.load_block(path), match, model)


EDITS = {
    "cut short": lambda text: text[:-9],
    "no network": lambda text: '{"class_name": "Block"}',
    "other index": lambda text: text.replace('"index": 1', '"index": 7'),
    "other blocks": lambda text: text.replace('_blocks": 3', '_blocks": 2'),
    "unknown word": lambda text: text.replace('"num_heads"', '"heads"'),
    "unknown class": lambda text: text.replace("ViT", "ViX"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_archives_are_refused(model, apart, tmp_path, name):
    path = tmp_path / "edited.keras"
    with (
        zipfile.ZipFile(apart[0][1]) as whole,
        zipfile.ZipFile(path, "w") as edited,
    ):
        for entry in whole.namelist():
            content = whole.read(entry)
            if entry == "config.json":
                text = content.decode()
                content = EDITS[name](text).encode()
                assert content.decode() != text
            edited.writestr(entry, content)
    refused(lambda: model.load_block(path), "edited.keras.*be read", model)


# A model from its blocks.


def test_from_blocks_trained_apart(apart):
    paths, weights = apart
    model = ViT.from_blocks([paths[2], paths[0], paths[1]])  # any order
    for block, expected in zip(model.blocks, weights, strict=True):
        assert equal(values(block.weights), expected)
    assert model.seed == 4
    again = ViT.from_blocks([str(path) for path in paths])
    np.testing.assert_array_equal(predict(again), predict(model))
    assert type(DiffusionBlocks.from_blocks(paths)) is ViT


ELSEWHERE = """
import sys, numpy, keras
from keras_dblocks.applications import ViT
keras.utils.set_random_seed(7)
block = ViT(**{sizes}).block(1)
block.compile("adamw")
data = numpy.load(sys.argv[1] + "/data.npz")
block.fit(data["x"], data["y"], batch_size=8, epochs=2, verbose=0)
block.save(sys.argv[1] + "/block_1.keras")
"""


@pytest.mark.slow
def test_block_trained_in_another_process(apart, tmp_path):
    """And on another backend, if it can be: the table is the same."""
    paths, _ = apart
    installed = importlib.util.find_spec("torch")
    backend = "torch" if installed else keras.backend.backend()
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    code = ELSEWHERE.replace("{sizes}", repr({**SIZES, **APART}))
    assert python(code, tmp_path, backend=backend).returncode == 0
    model = ViT.from_blocks([paths[0], tmp_path / "block_1.keras", paths[2]])
    block = keras.saving.load_model(tmp_path / "block_1.keras")
    assert block.training_step() == 6
    assert equal(values(model.blocks[1].weights), values(block.weights))
    assert np.isfinite(predict(model)).all()


@pytest.mark.quick
def test_from_blocks_of_one_model(tmp_path):
    model = make(seed=4)
    paths = [tmp_path / f"block_{i}.keras" for i in range(3)]
    for i in range(3):
        move(model.block(i), seed=i)
    for i, path in enumerate(paths):
        model.block(i).save(path)
    again = ViT.from_blocks(paths)
    model.build()
    assert equal(values(again.weights), values(model.weights))
    np.testing.assert_array_equal(predict(again), predict(model))


@pytest.mark.eager
def test_shared_parts_that_differ_are_refused(tmp_path):
    # The same start, then one step apart.
    paths = [tmp_path / "block_0.keras", tmp_path / "block_1.keras"]
    model, other = small_vit.make(), small_vit.make()
    model.compile("adamw")
    model.block(0).save(paths[0])
    block = other.block(1)
    block.compile("adamw")
    block.fit(*data(), verbose=0)
    block.save(paths[1])
    for act in (
        lambda: ViT.from_blocks(paths),
        lambda: model.load_block(paths[1]),
    ):
        message = refused(act, 'sharing="targets"', model)
        assert "block_1.keras" in message
        # The shared tensors that differ are named, and no other.
        for name in ("stem/positions", "labels/table", "head/dense"):
            assert name in message
        assert "layer_1" not in message


@pytest.mark.parametrize("chosen", [[0, 1], [0, 1, 1], [0, 1, 2, 2], []])
def test_every_block_is_needed_once(model, apart, chosen):
    paths = [apart[0][i] for i in chosen]
    match = "0 to 2" if chosen else "(?i)one file per block|at least"
    refused(lambda: ViT.from_blocks(paths), match, model)
