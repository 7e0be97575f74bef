"""Layers computed again in the backward pass: the same training."""

import keras
import numpy as np
import pytest

from helpers.small_vit import data, make, state, values


@pytest.mark.heavy
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_is_the_same(dropout):
    # Run eagerly, TensorFlow once counted every gradient twice.
    eager = keras.backend.backend() == "tensorflow" and not dropout
    kept, again = (built(remat=r, dropout=dropout) for r in (False, True))
    again.set_weights(kept.get_weights())
    for model in (kept, again):
        model.compile("sgd", run_eagerly=eager, on_policy=0.5)
    losses = [
        model.fit(*data(), batch_size=12, epochs=2, verbose=0).history["loss"]
        for model in (kept, again)
    ]
    # The same sums, in an order a compiler may change.
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for one, other in zip(state(kept), state(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.heavy
def test_a_block_alone_trains_the_same():
    kept, again = (built(remat=r, sharing="targets") for r in (False, True))
    again.set_weights(kept.get_weights())
    for model in (kept, again):
        block = model.block(1)
        block.compile("sgd")
        block.fit(*data(), batch_size=12, verbose=0)
    for one, other in zip(
        values(kept.weights), values(again.weights), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def built(**kwargs):
    """Generators of dropout are seeded when a layer is built."""
    model = make(**kwargs)
    model.build()
    return model
