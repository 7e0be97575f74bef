"""Which last layers are called in chunks, and that the loss is Keras's."""

import keras
import numpy as np
import pytest

import keras_dblocks
from helpers.chunked import count_chunks, set_chunk
from keras_dblocks.cutting.large_head import large_head


class Named(keras.layers.Dense):
    def call(self, inputs, training=False):
        return super().call(inputs)


def network(kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(9, 9, mask_zero=kind == "mask")(inputs)
    head = (Named if kind == "training" else keras.layers.Dense)(9)
    if kind == "twice":
        x = keras.ops.tanh(head(x))
    if kind == "regularized":
        head.activity_regularizer = keras.regularizers.L2(0.1)
    outputs = head(x)
    if kind == "after":
        outputs = 2.0 * outputs
    return keras.Model(inputs, outputs)


def data(kind):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (2, 8, 6)).astype("int32")
    if kind == "column":
        y = y[..., None]
    return x, y


@pytest.mark.eager
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "weights",
        "mask",
        "ignored",
        "twice",
        "training",
        "regularized",
        "after",
        "column",
    ],
)
def test_the_loss_is_that_of_the_network_s_own_fit(kind, monkeypatch):
    calls = count_chunks(monkeypatch, "cutting.large_head")
    set_chunk(monkeypatch, 100)
    x, y = data(kind)
    options = {}
    if kind == "weights":
        options["sample_weight"] = np.linspace(0, 1, 48).reshape(8, 6)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=3 if kind == "ignored" else None
    )
    accuracy = keras.metrics.SparseCategoricalAccuracy
    logs = []
    for cut in (False, True):
        model = network(kind)
        model.compile(
            keras.optimizers.SGD(0.1), loss, weighted_metrics=[accuracy("hits")]
        )
        if cut:
            model = keras_dblocks.cut(model, 1)
            model.compile(keras.optimizers.SGD(0.1))
        logs.append(model.fit(x, y, 8, epochs=2, verbose=0, **options).history)
    assert bool(calls) == (kind in ("plain", "weights"))
    assert set(logs[1]) == set(logs[0])
    for name in logs[0]:
        if name == "hits" and kind == "mask":
            continue  # Keras's own step on JAX forgets the mask there
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=1e-5)


def test_a_model_without_a_graph_has_none():
    class Own(keras.Model):
        def call(self, x):
            return x

    assert large_head(Own()) is None
    assert large_head(network("after")) is None
    assert large_head(network("plain")).vocabulary_size == 9
