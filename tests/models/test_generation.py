"""Networks by composition or subclass that generate, and units of data."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_vit import make, refused
from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import ContinuousSignal

WIDTH = 16


@keras.saving.register_keras_serializable("test_generation")
class Stem(keras.layers.Layer):
    """From noisy numbers, and a condition if there is one, to a state."""

    def build(self, noisy_shape, condition_shape=None):
        self.dense = keras.layers.Dense(WIDTH)
        more = condition_shape[-1] if condition_shape else 0
        self.dense.build((None, noisy_shape[-1] + more))

    def call(self, noisy, condition=None):
        parts = [noisy] if condition is None else [noisy, condition]
        return self.dense(ops.concatenate(parts, -1))

    def compute_output_shape(self, noisy_shape, condition_shape=None):
        return (noisy_shape[0], WIDTH)


def layer():
    state = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(WIDTH, activation="silu")(state)
    return keras.Model(state, state + keras.layers.Dense(WIDTH)(hidden))


class Numbers(DiffusionBlocks):
    """Unconditional, by the least that a subclass must define."""

    def condition_spec(self):
        return None

    def make_target(self):
        return ContinuousSignal((2,), value_range=(0.0, 10.0))

    def make_stem(self):
        return Stem()

    def make_layer(self, index):
        return layer()

    def make_readout(self):
        return keras.layers.Dense(2)


def composed(clean="x", condition=None, **kwargs):
    return DiffusionBlocks(
        target=ContinuousSignal((2,), value_range=(0.0, 10.0)),
        stem=Stem(),
        layers=[layer(), layer()],
        readout=keras.layers.Dense(2),
        num_blocks=2,
        clean=clean,
        condition=condition,
        **kwargs,
    )


def two_points(count=1024):
    """(2, 2) or (8, 8), and a small spread."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, (count, 1))
    x = 2.0 + 6.0 * side + rng.normal(size=(count, 2)) * 0.2
    return x.astype("float32"), side.astype("float32")


def far_from(samples, points):
    """Median distance of a sample to the nearest point."""
    apart = np.abs(samples[:, None] - np.asarray(points)[None]).max(-1)
    return np.median(apart.min(1))


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["subclass", "composed"])
def test_unconditional_samples_are_like_the_data(how):
    model = Numbers(num_layers=2, num_blocks=2) if how == "subclass" else None
    model = model or composed()
    model.compile(keras.optimizers.Adam(1e-2), on_policy=0.0)
    x, y = two_points()
    refused(lambda: model.fit(x, y), "sees no condition", model)
    refused(lambda: model.fit(x + 20), "value_range", model)
    model.fit(x, batch_size=64, epochs=60, verbose=0)
    assert np.isfinite(model.evaluate(x, verbose=0)).all()
    samples = model.generate(num_samples=50, num_steps=20)
    assert samples.shape == (50, 2)
    assert far_from(samples, [[2, 2], [8, 8]]) < 1.5
    nearer = samples.mean(-1) > 5
    assert 5 < nearer.sum() < 45  # both points are met
    again = model.generate(num_samples=50, num_steps=20, batch_size=7)
    np.testing.assert_allclose(again, samples, atol=1e-3)
    other = model.generate(num_samples=50, num_steps=20, seed=1)
    assert np.abs(other - samples).max() > 1.0
    refused(lambda: model.generate(x), "has no condition")
    refused(lambda: model.generate(), "has no condition")
    twin = model.end_to_end()
    assert twin.num_blocks == 1


@pytest.mark.heavy
def test_conditional_samples_follow_the_condition():
    model = composed(condition=keras.KerasTensor((None, 1)))
    model.compile(keras.optimizers.Adam(1e-2), on_policy=0.0)
    x, side = two_points()
    model.fit(x, side, batch_size=64, epochs=40, verbose=0)
    samples, steps = model.generate(
        np.float32([[0.0], [1.0]]), num_steps=12, return_trajectory=True
    )
    assert len(steps) == 12 and steps[0]["noisy"].shape == (2, 2)
    assert far_from(samples[:1], [[2, 2]]) < 2
    assert far_from(samples[1:], [[8, 8]]) < 2
    refused(lambda: model.generate(num_samples=2), "each row")
    refused(lambda: model.generate(np.zeros((2, 3))), r"\(2, 3\)")


@pytest.mark.heavy
def test_predictions_and_metrics_are_in_the_user_s_units():
    model = composed(clean="y", condition=keras.KerasTensor((None, 1)))
    model.compile(
        keras.optimizers.Adam(1e-2),
        metrics=[keras.metrics.MeanSquaredError(name="mse")],
    )
    y, side = two_points()
    model.fit(side, y, batch_size=64, epochs=15, verbose=0)
    found = model.evaluate(side, y, verbose=0, return_dict=True)
    answer = model.predict(side, verbose=0)
    assert found["mse"] == pytest.approx(np.mean((answer - y) ** 2), rel=1e-3)
    assert found["mse"] < 1.0 < y.var()
    steps = model.predict_steps(side)
    np.testing.assert_allclose(steps[-1], answer, atol=1e-4)
    alone = model.block(0).predict(side, verbose=0)
    assert ((alone - y) ** 2).mean() < 2.0


def test_classifiers_do_not_generate():
    model = make()
    refused(lambda: model.generate(np.zeros((1, 8, 8, 1))), "Call `predict`")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"readout": None}, r"readout must return .*\('B', 2\)"),
        ({"readout": keras.layers.Dense(1)}, r"Received: \('B', 1\)"),
        ({"layers": [keras.layers.Dense(3), layer()]}, "layer must return"),
        ({"stem": None}, "`stem` must be a Keras layer"),
        ({"layers": [None]}, r"`layers\[0\]` must be"),
        ({"clean": "y"}, "needs a condition"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_named(change, match):
    parts = {
        "target": ContinuousSignal((2,)),
        "stem": Stem(),
        "layers": [layer(), layer()],
        "readout": keras.layers.Dense(2),
        "clean": "x",
        "num_blocks": 1,
        **change,
    }
    refused(lambda: DiffusionBlocks(**parts).build(), match)


@pytest.mark.once
@pytest.mark.parametrize("shape", [(), 3, (0,), (2, -1), (1.5,)], ids=str)
def test_a_signal_has_sizes(shape):
    refused(lambda: ContinuousSignal(shape), "`signal_shape` must be")


class NoStem(Numbers):
    def make_stem(self):
        return None


class NotKept(Numbers):
    def __init__(self, width=3, **kwargs):
        super().__init__(**kwargs)


class SumOfErrors(ContinuousSignal):
    def loss(self, x, prediction, noisy=None, level=None):
        return ops.square(prediction - self.call(x))


class WrongLoss(Numbers):
    def make_target(self):
        return SumOfErrors((2,))


def test_mistakes_of_a_subclass_are_found_before_training():
    sizes = {"num_layers": 2, "num_blocks": 2}
    refused(lambda: NoStem(**sizes).build(), "Return one from `make_stem`")
    refused(lambda: NotKept(**sizes).compile("adam"), "`width`")
    model = WrongLoss(**sizes)
    model.compile("adam")
    x, _ = two_points(8)
    with pytest.raises(ValueError, match=r"SumOfErrors with shape \(.*2\)"):
        model.fit(x / 10, verbose=0)
