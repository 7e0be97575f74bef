"""The table of label embeddings, the bridge and the refusals."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dblocks.layers import LabelEmbedding

LABELS = np.int32([2, 0, 3])
TABLE = np.random.default_rng(3).normal(size=(4, 6)) * [[1], [2], [3], [9]]
ROWS = TABLE / np.linalg.norm(TABLE, axis=-1, keepdims=True)
LOGITS = np.float32([[0.0, 1.0, 2.0, -1.0], [3.0, -2.0, 0.5, 1.0]])


def numpy(tensor):
    return np.array(ops.convert_to_numpy(tensor), "float32")


def table_layer(*args, **kwargs):
    layer = LabelEmbedding(4, 6, *args, **kwargs)
    layer.build()
    layer.table.assign(TABLE)
    return layer


@pytest.mark.quick
@pytest.mark.parametrize("bridge", ["soft", "unnormalized"])
def test_labels_and_bridge(bridge):
    layer = table_layer(bridge)
    assert layer.signal_shape == (6,)
    np.testing.assert_allclose(numpy(layer(LABELS)), ROWS[LABELS], atol=1e-6)
    share = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    wanted = {
        "soft": share @ ROWS,
        "unnormalized": share @ TABLE,
    }
    ours = numpy(layer.bridge(ops.convert_to_tensor(LOGITS)))
    np.testing.assert_allclose(ours, wanted[bridge], atol=2e-6)

    loss = layer.loss(np.array([2, 1]), ops.convert_to_tensor(LOGITS))
    np.testing.assert_allclose(
        numpy(loss), -np.log(share[[0, 1], [2, 1]]), rtol=1e-5
    )


class Bridge(keras.layers.Layer):
    """Calls the bridge the way a model's `call` does."""

    def __init__(self, target, **kwargs):
        super().__init__(**kwargs)
        self.target = target

    def call(self, x):
        return self.target.bridge(ops.cast(x, "float32"))


@pytest.mark.parametrize("use", ["call", "bridge", "symbol"])
def test_the_clean_signal_is_float32_in_mixed_precision(use):
    # docs/method.md#what-blocks-share. The model's `predict` runs in a
    # bfloat16 scope.
    layer = table_layer(dtype="mixed_bfloat16")
    if use == "call":
        ours = numpy(layer(LABELS))
        np.testing.assert_allclose(ours, ROWS[LABELS], atol=1e-6)
    elif use == "bridge":
        sure = 100 * np.eye(4, dtype="float32")
        ours = numpy(Bridge(layer, dtype="mixed_bfloat16")(sure))
        np.testing.assert_allclose(ours, ROWS, atol=1e-6)
    else:
        symbol = layer(keras.Input((), dtype="int32"))
        assert keras.backend.standardize_dtype(symbol.dtype) == "float32"


def test_fixed_table_depends_on_the_seed_alone():
    tables = []
    for seed in (0, 0, 1):
        layer = LabelEmbedding(3, 4)
        layer.freeze(seed)
        layer.build()
        assert not layer.trainable_variables and len(layer.weights) == 1
        tables.append(numpy(layer.table))
    np.testing.assert_array_equal(tables[0], tables[1])
    assert np.abs(tables[0] - tables[2]).max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(tables[0], axis=-1), 1, atol=1e-6)
    # Written down once: every backend must repeat it.
    first = [-0.8097014, -0.4892926, -0.0332355, -0.3222914]
    np.testing.assert_allclose(tables[0][0], first, atol=1e-6)


@pytest.mark.parametrize(
    "labels, wanted, came",
    [
        (np.array([0, 4]), "0 to 3", "0 to 4"),
        (np.array([-1, 2]), "0 to 3", "-1 to 2"),
        (np.array([0.0, 1.0]), "integers", "float64"),
        (np.eye(4, dtype="int32"), "integers", r"int32 of shape \(4, 4\)"),
    ],
)
def test_bad_labels_are_refused(labels, wanted, came):
    layer = LabelEmbedding(4, 6)
    layer.check(np.array([0, 3]))
    layer.check(np.array([], "int64"))
    with pytest.raises(ValueError, match=rf"{wanted}.*Received: {came}.*\. \w"):
        layer.check(labels)


@pytest.mark.parametrize("bridge", ["cold", "hard"])
def test_unknown_bridge_is_refused(bridge):
    match = rf"`bridge`.*Received: .*'{bridge}'\. Use"
    with pytest.raises(ValueError, match=match):
        LabelEmbedding(4, 6, bridge=bridge)
