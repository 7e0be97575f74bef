"""What is saved is what is loaded, on any backend."""

import importlib.util

import keras
import numpy as np
import pytest

from helpers.small_vit import (
    data,
    equal,
    make,
    predict,
    python,
    state,
    values,
    weights,
)
from keras_dblocks import Block
from keras_dblocks.applications import ViT

BACKENDS = ["jax", "tensorflow", "torch"]
HERE = BACKENDS.index(keras.backend.backend())
# Each backend reads what the one before it wrote; the rest is slow, since a
# process of another backend takes long to start.
OTHERS = [
    BACKENDS[(HERE + 1) % 3],
    pytest.param(BACKENDS[(HERE + 2) % 3], marks=pytest.mark.slow),
]


def adamw():
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 20)
    return keras.optimizers.AdamW(schedule, weight_decay=0.1)


def fit(model, epochs=1, **kwargs):
    """Loss and weights after training on the same data every time."""
    x, y = data()
    history = model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, **kwargs)
    return history.history["loss"], weights(model)


def check_round_trip(model, path):
    """Predicts the same, is compiled the same, trains on the same."""
    model.save(path)
    loaded = keras.saving.load_model(path)  # safe mode, no custom_objects
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(predict(loaded), predict(model))
    assert loaded.compiled
    assert loaded.training_step() == model.training_step() > 0
    assert equal(state(loaded), state(model))
    losses, weights = fit(model)
    losses_again, weights_again = fit(loaded)
    assert losses == losses_again
    assert equal(weights, weights_again)
    return loaded


@pytest.mark.eager
@pytest.mark.parametrize("sharing", ["all", "targets"])
def test_model_trains_on_after_loading(tmp_path, sharing):
    # Dropout draws random numbers of its own; those go on too.
    model = make(sharing=sharing, dropout=0.1, seed=3)
    model.compile(
        adamw(), metrics=["accuracy"], on_policy=0.25, block_order=[1, 3]
    )
    fit(model)
    loaded = check_round_trip(model, tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert loaded.get_compile_config() == model.get_compile_config()
    assert loaded.on_policy == 0.25
    if sharing == "targets":  # once will do
        result = loaded.evaluate(*data(), verbose=0, return_dict=True)
        assert {"loss", "accuracy", "block_1_loss"} <= set(result)


@pytest.mark.eager
def test_block_trains_on_after_loading(tmp_path):
    block = make(dropout=0.1).block(1)
    block.compile(adamw(), metrics=["accuracy"])
    fit(block)
    loaded = check_round_trip(block, str(tmp_path / "block_1.keras"))
    assert isinstance(loaded, Block)
    assert loaded.index == 1
    assert loaded.upper_level == block.upper_level
    assert loaded.get_config() == block.get_config()


CONFIGS = {
    "reference": {"reference": True, "loss_weighting": "edm", "name": "paper"},
    "bfloat16": {"dtype": "mixed_bfloat16", "overlap": 0.2},
    "uneven": {
        "num_layers": 3,
        "layers_per_block": [2, 1],
        "sharing": "targets",
        "partition": "log_uniform",
        "sampler": {"num_steps": 4, "grid": "karras", "seed": 2},
    },
}


@pytest.mark.eager
@pytest.mark.quick
@pytest.mark.parametrize("name", CONFIGS)
def test_settings_survive(tmp_path, name):
    model = make(**CONFIGS[name])
    model.save(tmp_path / "model.keras")  # neither built nor compiled
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    assert loaded.name == model.name
    assert loaded.dtype_policy == model.dtype_policy
    assert loaded.partition.describe() == model.partition.describe()
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(predict(loaded), predict(model))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what was trained here, and what it predicts."""
    folder = tmp_path_factory.mktemp("files")
    model = make()
    model.compile(adamw())
    fit(model)
    block = model.block(0)
    block.compile(adamw())
    fit(block)
    expected = {"x": data()[0]}
    for name, one in (("model", model), ("block", block)):
        one.save(folder / f"{name}.keras")
        expected[name] = predict(one)
        for i, value in enumerate(values(one.optimizer.variables)):
            expected[f"{name}_optimizer_{i}"] = value
    model.save_to_preset(folder / "preset")
    expected["preset"] = expected["model"]
    np.savez(folder / "expected.npz", **expected)
    return folder


ELSEWHERE = """
import sys, keras, numpy
from keras_dblocks.applications import ViT
folder, result = sys.argv[1], {}
x = numpy.load(folder + "/expected.npz")["x"]
for name in ("model", "block"):
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    result[name] = model.predict(x, verbose=0)
    for i, v in enumerate(model.optimizer.variables):
        result[f"{name}_optimizer_{i}"] = keras.ops.convert_to_numpy(v)
result["preset"] = ViT.from_preset(folder + "/preset").predict(x, verbose=0)
result["x"] = x
numpy.savez(f"{folder}/{keras.backend.backend()}.npz", **result)
"""


@pytest.mark.parametrize("backend", OTHERS)
def test_other_backend_predicts_the_same(files, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    assert python(ELSEWHERE, files, backend=backend).returncode == 0
    with np.load(files / f"{backend}.npz") as there:
        with np.load(files / "expected.npz") as here:
            assert set(there) == set(here)
            for key in here:
                exact = "optimizer" in key
                np.testing.assert_allclose(
                    there[key], here[key], rtol=0, atol=0 if exact else 1e-5
                )


@pytest.mark.heavy
def test_preset_folder(files):
    expected = np.load(files / "expected.npz")["model"]
    model = ViT.from_preset(str(files / "preset"), name="again")
    assert model.name == "again"
    assert not model.compiled
    np.testing.assert_array_equal(predict(model), expected)


@pytest.mark.eager
def test_checkpoints_of_fit_can_be_loaded(tmp_path):
    model = make()
    model.compile(adamw())
    checkpoint = keras.callbacks.ModelCheckpoint
    callbacks = [
        checkpoint(tmp_path / "epoch_{epoch}.keras"),
        checkpoint(tmp_path / "step_{batch}.keras", save_freq=2),
        checkpoint(tmp_path / "last.weights.h5", save_weights_only=True),
    ]
    losses, trained = fit(model, epochs=2, callbacks=callbacks)
    again = keras.saving.load_model(tmp_path / "epoch_1.keras")
    assert again.training_step() == 3
    losses_again, trained_again = fit(again, epochs=2, initial_epoch=1)
    assert losses_again == losses[1:]
    assert equal(trained_again, trained)
    steps = sorted(tmp_path.glob("step_*.keras"))
    counts = [keras.saving.load_model(f).training_step() for f in steps]
    assert sorted(counts) == [2, 4, 6]
    again.load_weights(tmp_path / "last.weights.h5")
    assert equal(weights(again), trained)
    assert not list(tmp_path.glob(".*"))


def test_weights_load_into_a_fresh_model(tmp_path):
    model = make()
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = make(initial=5)  # its sizes are known: no need to build it first
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert equal(values(fresh.weights), values(model.weights))
