"""What is saved is what is loaded, on any backend, and nothing is lost."""

import importlib.util
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

from keras_dblocks import Block
from keras_dblocks.applications import ViT

BACKEND = keras.backend.backend()
OTHERS = [b for b in ("jax", "tensorflow", "torch") if b != BACKEND]
SIZES = {
    "image_size": 8,
    "num_classes": 4,
    "channels": 1,
    "patch_size": 4,
    "hidden_dim": 12,
    "num_heads": 2,
    "intermediate_dim": 16,
    "num_layers": 2,
    "num_blocks": 2,
}


def make(**kwargs):
    keras.utils.set_random_seed(1)
    return ViT(**{**SIZES, **kwargs})


def data(count=24):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count).astype("int32")
    images = rng.normal(size=(count, 8, 8, 1)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def adamw():
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 20)
    return keras.optimizers.AdamW(schedule, weight_decay=0.1)


def values(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def fit(model, epochs=1, **kwargs):
    """Loss and weights after training on the same data every time."""
    x, y = data()
    history = model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, **kwargs)
    return history.history["loss"], values(model.weights)


def predict(model):
    return model.predict(data()[0], verbose=0)


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def check_round_trip(model, path):
    """Predicts the same, is compiled the same, trains on the same."""
    model.save(path)
    loaded = keras.saving.load_model(path)  # safe mode, no custom_objects
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(predict(loaded), predict(model))
    assert loaded.compiled
    assert loaded.training_step() == model.training_step() > 0
    state = loaded.optimizer.variables
    assert [v.path for v in state] == [v.path for v in model.optimizer.variables]
    assert_equal(values(state), values(model.optimizer.variables))
    losses, weights = fit(model)
    losses_again, weights_again = fit(loaded)
    assert losses == losses_again
    assert_equal(weights, weights_again)
    return loaded


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
    result = loaded.evaluate(*data(), verbose=0, return_dict=True)
    assert result == model.evaluate(*data(), verbose=0, return_dict=True)
    assert "accuracy" in result


def test_block_trains_on_after_loading(tmp_path):
    block = make(dropout=0.1).block(1)
    block.compile(adamw(), metrics=["accuracy"])
    fit(block)
    loaded = check_round_trip(block, str(tmp_path / "block_1.keras"))
    assert isinstance(loaded, Block)
    assert loaded.index == 1
    assert loaded.upper_level == block.upper_level
    assert loaded.network().get_config() == block.network().get_config()


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


def run(code, folder, backend=BACKEND):
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("backend", OTHERS)
def test_other_backend_predicts_the_same(files, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = run(ELSEWHERE, files, backend)
    assert done.returncode == 0, done.stderr
    with np.load(files / f"{backend}.npz") as there:
        with np.load(files / "expected.npz") as here:
            assert set(there) == set(here)
            for key in here:
                exact = "optimizer" in key
                np.testing.assert_allclose(
                    there[key], here[key], rtol=0, atol=0 if exact else 1e-5
                )


def test_preset_folder(files):
    expected = np.load(files / "expected.npz")["model"]
    model = ViT.from_preset(str(files / "preset"), name="again")
    assert model.name == "again"
    assert not model.compiled
    np.testing.assert_array_equal(predict(model), expected)


class DiskFull(OSError):
    pass


def fail(*args, **kwargs):
    raise DiskFull("No space left on device")


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "preset"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, name):
    model = make()
    model.build()

    def save():
        if name == "preset":
            model.save_to_preset(tmp_path / name)
        elif name == "model.keras":
            model.save(tmp_path / name)
        else:
            model.save_weights(tmp_path / name)

    def contents():
        files = [f for f in tmp_path.rglob("*") if f.is_file()]
        return {file: file.read_bytes() for file in files}

    save()
    before = contents()
    # The last part of the last block: by then most of the file is written.
    monkeypatch.setattr(model.blocks[-1].head, "save_own_variables", fail)
    model.blocks[0].head.classifier.bias.assign([9.0] * 4)
    with pytest.raises(DiskFull):
        save()
    assert contents() == before
    monkeypatch.undo()
    save()
    assert contents().keys() == before.keys()
    assert contents() != before


KILLED = """
import os, sys, zipfile, keras
import keras_dblocks.applications
path = sys.argv[1] + "/model.keras"
model = keras.saving.load_model(path)
model.blocks[0].head.classifier.bias.assign([9.0] * 4)
write = zipfile.ZipFile.open
def killed(archive, name, mode="r", **kwargs):
    if mode == "w" and "weights" in str(getattr(name, "filename", name)):
        os._exit(9)  # like `kill -9`: nothing is tidied up
    return write(archive, name, mode, **kwargs)
zipfile.ZipFile.open = killed
model.save(path)
"""


def test_killed_write_keeps_the_old_file(files, tmp_path):
    before = (files / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(before)
    done = run(KILLED, tmp_path)
    assert done.returncode == 9, done.stderr
    assert (tmp_path / "model.keras").read_bytes() == before
    assert zipfile.ZipFile(tmp_path / "model.keras").testzip() is None
    # What the killed process was writing can be told from a whole file.
    others = {f.name for f in tmp_path.iterdir()} - {"model.keras"}
    assert all(name.startswith(".") for name in others)


def test_overwrite_false_asks(tmp_path, monkeypatch):
    model, path = make(), tmp_path / "model.keras"
    model.save(path, overwrite=False)  # nothing there yet
    before = path.read_bytes()
    model.blocks[0].head.classifier.bias.assign([9.0] * 4)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    model.save(path, overwrite=False)
    assert path.read_bytes() == before
    monkeypatch.setattr("builtins.input", lambda question: "y")
    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(model.blocks[-1].head, "save_own_variables", fail)
        model.save(path, overwrite=False)
    assert path.read_bytes() == before
    model.save(path, overwrite=False)
    bias = keras.saving.load_model(path).blocks[0].head.classifier.bias
    np.testing.assert_array_equal(values([bias])[0], [9.0] * 4)


def test_checkpoints_of_fit_can_be_loaded(tmp_path):
    model = make()
    model.compile(adamw())
    checkpoint = keras.callbacks.ModelCheckpoint
    callbacks = [
        checkpoint(tmp_path / "epoch_{epoch}.keras"),
        checkpoint(tmp_path / "step_{batch}.keras", save_freq=2),
        checkpoint(tmp_path / "last.weights.h5", save_weights_only=True),
    ]
    losses, weights = fit(model, epochs=2, callbacks=callbacks)
    again = keras.saving.load_model(tmp_path / "epoch_1.keras")
    assert again.training_step() == 3
    losses_again, weights_again = fit(again, epochs=2, initial_epoch=1)
    assert losses_again == losses[1:]
    assert_equal(weights_again, weights)
    steps = sorted(tmp_path.glob("step_*.keras"))
    counts = [keras.saving.load_model(f).training_step() for f in steps]
    assert sorted(counts) == [2, 4, 6]
    fresh = make(seed=5)
    fresh.load_weights(tmp_path / "last.weights.h5")
    np.testing.assert_array_equal(predict(fresh), predict(model))
    hidden = [f for f in tmp_path.iterdir() if f.name.startswith(".")]
    assert hidden == []
