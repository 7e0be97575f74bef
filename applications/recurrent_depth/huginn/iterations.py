"""Number of iterations and first state of Huginn's core."""

# T slots, D hidden_dim

import math

import keras
import numpy as np
from keras import ops

from keras_dblocks import streams

SIGMA = 0.5  # standard deviation of the logarithm of the Poisson rate
START_SCALE = math.sqrt(2 / 5)  # also of Huginn's scaled embeddings


def probabilities(mean):
    """Array of the probabilities of 0, 1, 2, ... iterations.

    The number is 1 plus a Poisson variable whose rate is log-normal with mean
    `mean`. Numbers beyond the end of the array are rarer than float32 can
    draw.

    Args:
        mean: int. Mean of the rate; the mean number of iterations is one more.

    References:
     - [Huginn](https://arxiv.org/abs/2502.05171), Section 3.3
    """
    normal = np.linspace(-8.0, 8.0, 801)[:, None]
    weights = np.exp(-(normal**2) / 2)
    weights /= weights.sum()
    log_rate = math.log(mean) - SIGMA**2 / 2 + SIGMA * normal
    counts = np.arange(20 * mean + 20)
    log_factorial = np.cumsum(np.log(np.maximum(counts, 1)))
    poisson = np.exp(counts * log_rate - np.exp(log_rate) - log_factorial)
    return np.concatenate([[0.0], np.sum(weights * poisson, 0)])


def draw(probabilities, seed):
    """Draws an int32 tensor `()`, anew whenever a compiled step runs.

    Keras cannot draw Poisson variables, so we invert the distribution
    function.
    """
    uniform = keras.random.uniform((), dtype="float32", seed=seed)
    share = np.cumsum(probabilities)[:-1].astype("float32")
    passed = ops.convert_to_tensor(share) <= uniform
    return ops.sum(ops.cast(passed, "int32"))


def random_start(shape, seed):
    """First states in training, normal and truncated at 3 deviations."""
    most = math.erf(3 / math.sqrt(2))
    uniform = keras.random.uniform(
        shape, -most, most, dtype="float32", seed=seed
    )
    return START_SCALE * math.sqrt(2) * ops.erfinv(uniform)


def fixed_start(length, dim, seed):
    """First states at inference, a fixed float32 array `(1, 1, T, D)`."""
    generator = streams.generator(seed, "first_state")
    start = generator.standard_normal((1, 1, length, dim), dtype="float32")
    while (far := np.abs(start) > 3).any():
        start[far] = generator.standard_normal(far.sum(), dtype="float32")
    return np.float32(START_SCALE) * start
