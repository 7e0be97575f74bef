"""What the tests of next-token prediction share: tiny models, text, a rule."""

import functools

import keras
import numpy as np
from keras import ops

from keras_dblocks.applications.ar import ARTransformer

SIZES = {
    "vocabulary_size": 3,
    "sequence_length": 6,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 24,
    "num_layers": 3,
    "num_blocks": 3,
    "conditioning_dim": 8,
}


def make(initial=0, twin=False, **kwargs):
    """Same sizes every time; `initial` decides the first weights."""
    keras.utils.set_random_seed(initial)
    kind = ARTransformer.end_to_end if twin else ARTransformer
    return kind(**{**SIZES, **kwargs})


def randomize(model, scale=0.15, seed=1):
    """Weights of a network that does something, at every noise level.

    The same on every backend: matrices anew, and noise on gains and biases.
    """
    if not model.built:
        model.build()
    rng = np.random.default_rng(seed)
    for variable in {id(v): v for v in model.trainable_variables}.values():
        value = rng.normal(size=variable.shape)
        if value.ndim > 1:
            value *= len(value) ** -0.5
        else:
            value = ops.convert_to_numpy(variable) + scale * value
        variable.assign(value)
    return model


def data(count=24, length=6):
    """Text with a rule: token 0 follows 2, 1 follows 0, 2 follows 1."""
    first = np.random.default_rng(0).integers(0, 3, (count, 1))
    return ((first + np.arange(length)) % 3).astype("int32")


def random_tokens(count, length=6, seed=2):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, (count, length)).astype("int32")


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def nats(logits, tokens):
    """Cross-entropy of each token, `(..., N, T)`."""
    tokens = np.broadcast_to(tokens, logits.shape[:-1])[..., None]
    picked = np.take_along_axis(log_softmax(logits), tokens, -1)
    return -picked[..., 0]


# Nothing that is measured on texts may matter to the tests.
PLAIN = {"skip": False, "simplex": False}
OPTIONS = {"skip": True, "logit_scale": 0.5, "tied": True}
OPTIONS |= {"sharing": "targets", "num_key_value_heads": 1}
# Models whose predictions are functions of the text alone.
MODELS = {
    "blocks": PLAIN,
    "options": OPTIONS,
    "simplex": {"skip": False, "simplex": True},
    "signal": {"hand_over": "signal"},
    "two_streams": {"reference": True, "sampler": {"name": "euler"}},
    "twin": {"twin": True, "num_key_value_heads": 1},
}


@functools.cache
def shared(name):
    """One of them, compiled once for all tests, which leave it as it is."""
    return randomize(make(**MODELS[name]))
