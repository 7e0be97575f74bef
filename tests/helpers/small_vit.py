"""What the tests of files and refusals share: a tiny ViT, data, questions."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_dblocks.applications import ViT

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


def make(initial=0, **kwargs):
    """Same sizes every time; `initial` decides the first weights."""
    keras.utils.set_random_seed(initial)
    return ViT(**{**SIZES, **kwargs})


def three_blocks(**kwargs):
    """Built, one layer a block."""
    model = make(1, **{"num_layers": 3, "num_blocks": 3, **kwargs})
    model.build()
    return model


def data(count=24):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count).astype("int32")
    images = rng.normal(size=(count, 8, 8, 1)) + labels[:, None, None, None]
    return images.astype("float32"), labels


def values(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def weights(model):
    """Every number of a model but what it remembers of its last `fit`."""
    names = ("last_losses", "fit_start", "curriculum_length")
    return values(v for v in model.weights if v.name not in names)


def state(model):
    """`weights` and the optimizer's numbers, of a compiled model."""
    return weights(model) + values(model.optimizer.variables)


def equal(first, second):
    """To the last bit."""
    return len(first) == len(second) > 0 and all(
        np.array_equal(one, other)
        for one, other in zip(first, second, strict=True)
    )


def predict(model):
    return model.predict(data()[0], verbose=0)


def refused(act, match, model=None):
    """Message of the ValueError `act` raises, checked for its three parts.

    Args:
        act: function of no arguments.
        match: regular expression.
        model: compiled model, not one bit of which may move; or None.
    """
    before = state(model) if model else None
    with pytest.raises(ValueError, match=match) as caught:
        act()
    message = str(caught.value)
    wanted, received, rest = message.partition("Received:")
    assert wanted.strip().endswith(".") and received, message
    came, stop, advice = rest.strip().partition(". ")
    assert came and stop and advice.endswith("."), message
    assert model is None or equal(state(model), before)
    return message


def python(code, *arguments, backend=None):
    """Runs `code` in a fresh interpreter; its `stdout` and `returncode`."""
    backend = backend or keras.backend.backend()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done
