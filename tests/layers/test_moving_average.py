"""Averages of weights are those of a plain loop."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dblocks.layers import MovingAverage


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.quick
def test_average_is_warmed_up():
    variable = keras.Variable(np.float32([0.0, 8.0]))
    average = MovingAverage(0.9)
    average.follow([variable])
    ((_, value),) = average.values()
    np.testing.assert_array_equal(numpy(value), [0.0, 8.0])
    rng, wanted = np.random.default_rng(0), None
    for t in range(30):
        draw = rng.normal(size=2).astype("float32")
        variable.assign(draw)
        average.update()
        momentum = min(0.9, (1 + t) / (10 + t)) if t else 0.0
        wanted = draw if wanted is None else wanted
        wanted = momentum * wanted + (1 - momentum) * draw
        ((_, value),) = average.values()
        np.testing.assert_allclose(numpy(value), wanted, atol=1e-6)
