"""Exported models answer as the model does, without this project."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from helpers.small_vit import data, make, refused
from keras_dblocks.applications import MDM, ARTransformer
from keras_dblocks.models import export
from keras_dblocks.samplers import EulerSampler

BACKEND = keras.backend.backend()
X, _ = data(5)
TOKENS = np.random.default_rng(0).integers(0, 8, (5, 8)).astype("int32")
# Written for a fresh process: what it imports is not this project.
SAVED_MODEL = """
import sys, numpy, tensorflow
loaded = tensorflow.saved_model.load(sys.argv[1])
numpy.save(sys.argv[3], loaded.serve(numpy.load(sys.argv[2])))
assert "keras_dblocks" not in sys.modules
"""
ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
(given,), x = session.get_inputs(), numpy.load(sys.argv[2])
size = given.shape[0] if isinstance(given.shape[0], int) else len(x)
parts = [x[i : i + size] for i in range(0, len(x), size)]
parts = [session.run(None, {given.name: part})[0] for part in parts]
numpy.save(sys.argv[3], numpy.concatenate(parts))
"""
READERS = {"tf_saved_model": SAVED_MODEL, "onnx": ONNX}

pytestmark = [
    # The converters' own, of torch 2.13, tf2onnx 1.17 and TensorFlow 2.21.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def systems():
    ar = ARTransformer(
        8, 8, num_layers=2, num_blocks=2, hidden_dim=8, num_heads=2
    )
    vit = make(intermediate_dim=16)
    return {
        "whole": (vit, X),
        "block": (vit.block(0), X),
        "text": (ar, TOKENS),
        "block of text": (ar.block(1), TOKENS),
    }


def exported(model, x, format, folder):
    """What a process without this project makes of the exported model."""
    path = str(folder / "exported") + (".onnx" if format == "onnx" else "")
    model.export(path, format=format)
    np.save(folder / "x.npy", x)
    arguments = [path, str(folder / "x.npy"), str(folder / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", READERS[format], *arguments],
        env={**os.environ, "PYTHONPATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "y.npy")


def installed(format):
    packages = export.FORMATS[format].get(BACKEND)
    return packages and all(map(importlib.util.find_spec, packages))


@pytest.mark.parametrize(
    "name",
    [
        "whole",
        pytest.param("block", marks=pytest.mark.slow),
        pytest.param("text", marks=pytest.mark.slow),
        pytest.param("block of text", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("format", READERS)
def test_what_comes_back_predicts_the_same(name, format, tmp_path):
    model, x = systems()[name]
    if not installed(format):
        refused(lambda: model.export(tmp_path / "x", format=format), BACKEND)
        return
    if (BACKEND, format) == ("tensorflow", "onnx") and x is X:
        # tf2onnx 1.17 has no Erfc, of which Keras makes the exact GELU.
        path = tmp_path / "x.onnx"
        refused(lambda: model.export(path, format=format), "Erfc")
        assert not path.exists()
        return
    found = exported(model, x, format, tmp_path)
    wanted = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_from_noise_rows_count_within_the_batch(tmp_path):
    model = make(sampler=EulerSampler(4, grid="equal_mass", start="noise"))
    format = "onnx" if BACKEND == "torch" else "tf_saved_model"
    found = exported(model, X, format, tmp_path)
    if BACKEND == "torch":  # exported for batches of one row
        wanted = [model.predict(X[i : i + 1], verbose=0)[0] for i in range(5)]
    else:
        wanted = model.predict(X, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_what_cannot_be_exported_is_refused(tmp_path):
    model = make()
    refused(lambda: model.export(tmp_path / "x", format="litert"), "litert")
    mixed = make(dtype="mixed_bfloat16")
    refused(lambda: mixed.export(tmp_path / "x", format="onnx"), "float32|need")
    mdm = MDM(8, 8, num_layers=2, num_blocks=2, hidden_dim=8, num_heads=2)
    refused(lambda: mdm.export(tmp_path / "x"), "no condition")
