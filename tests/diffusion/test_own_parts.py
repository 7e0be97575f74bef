"""Samplers, noise and targets of a user's own; samplers are values."""

import dataclasses
import textwrap

import keras
import numpy as np
import pytest
from keras import ops

from helpers.residual_mlp import example
from helpers.toys import Vector
from keras_dblocks import (
    DiffusionBlocks,
    EDMPreconditioning,
    LogNormalNoise,
    Noise,
    Preconditioning,
    Target,
    samplers,
)
from keras_dblocks.diffusion.noise import expand
from keras_dblocks.samplers import (
    EulerSampler,
    HeunSampler,
    Sampler,
    StochasticSampler,
    UnmaskingSampler,
)


def make(**kwargs):
    sizes = {"features": 2, "num_classes": 3, "width": 8}
    keras.utils.set_random_seed(1)
    return example.ResidualMLP(**sizes, num_layers=2, num_blocks=2, **kwargs)


def data(count=8):
    return example.spirals(count, seed=0)


def predict(model, count=8):
    return model.predict(data(count)[0], verbose=0)


def example_of(kind):
    """The class that a docstring's example defines, run as it stands."""
    code = kind.__doc__.split("```python\n")[1].split("```")[0]
    names = {"__name__": __name__, "keras": keras, "samplers": samplers}
    names["dataclasses"] = dataclasses
    exec(textwrap.dedent(code), names)
    (made,) = [
        value
        for value in names.values()
        if isinstance(value, type) and value.__module__ == __name__
    ]
    return made


Halving = example_of(Sampler)


@dataclasses.dataclass(frozen=True)
class Unregistered(EulerSampler):
    """What Keras could not make again."""


@keras.saving.register_keras_serializable("tests")
class LinearNoise(Noise):
    """Gaussian noise whose level is uniform, from the contract alone."""

    def __init__(self, low=0.01, high=4.0):
        self.low = low
        self.high = high

    @property
    def minimum(self):
        return self.low

    @property
    def maximum(self):
        return self.high

    def cdf(self, level):
        level = np.clip(level, self.low, self.high)
        return (level - self.low) / (self.high - self.low)

    def quantile(self, probability):
        return self.low + np.asarray(probability) * (self.high - self.low)

    def quantile_tensor(self, probability):
        return self.low + probability * (self.high - self.low)

    def widen(self, low, high, overlap):
        grown = overlap * (high - low)
        return max(low - grown, self.low), min(high + grown, self.high)

    def corrupt(self, clean, level, stream, rows, step):
        eps = stream.normal(rows, clean.shape[1:], step)
        return clean + expand(level, clean) * eps

    def start(self, rows, shape, stream=None, step=0):
        if stream is None:
            return ops.zeros((ops.shape(rows)[0], *shape))
        return self.high * stream.normal(rows, shape, step)

    def get_config(self):
        return {"low": self.low, "high": self.high}


@keras.saving.register_keras_serializable("tests")
class ScaledVector(Target):
    """Vectors in units of a weight, from the contract alone."""

    def __init__(self, dim, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.scale = scale

    @property
    def signal_shape(self):
        return (self.dim,)

    def build(self, input_shape=None):
        initializer = keras.initializers.Constant(self.scale)
        self.unit = self.add_weight(
            shape=(), initializer=initializer, trainable=False
        )

    def call(self, x):
        return ops.cast(x, "float32") / self.unit

    def bridge(self, prediction):
        return prediction

    def loss(self, x, prediction, noisy, level):
        return ops.mean(ops.square(prediction - self.call(x)), -1)

    def get_config(self):
        config = {"dim": self.dim, "scale": self.scale}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("tests")
class Concatenated(keras.layers.Layer):
    """Stem: the noisy vector and the condition."""

    def build(self, noisy_shape, condition_shape):
        self.dense = keras.layers.Dense(noisy_shape[-1])
        width = noisy_shape[-1] + condition_shape[-1]
        self.dense.build((None, width))

    def call(self, noisy, condition):
        return self.dense(ops.concatenate([noisy, condition], -1))


def composed(**parts):
    keras.utils.set_random_seed(1)
    return DiffusionBlocks(
        **{"target": Vector(3), "stem": Concatenated(), **parts},
        layers=[keras.layers.Dense(3) for _ in range(2)],
        num_blocks=2,
        condition=keras.KerasTensor((None, 2)),
    )


def vectors(count=8):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 2)), rng.normal(size=(count, 3))
    return x.astype("float32"), y.astype("float32")


SAMPLERS = [
    EulerSampler(),
    HeunSampler(5),
    StochasticSampler(6),
    UnmaskingSampler(mask_token=3),
    Halving(10),
]


@pytest.mark.once
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_samplers_are_values(sampler):
    for field in dataclasses.fields(sampler):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sampler, field.name, getattr(sampler, field.name))
    other = dataclasses.replace(sampler, num_steps=12, seed=3)
    assert type(other) is type(sampler) and other != sampler
    assert (other.num_steps, other.seed) == (12, 3)
    back = dataclasses.replace(other, num_steps=sampler.num_steps, seed=0)
    assert back == sampler and hash(back) == hash(sampler)
    assert samplers.get(samplers.serialize(sampler)) == sampler


@pytest.mark.heavy
@pytest.mark.quick
def test_a_sampler_that_is_set_after_predict_is_used():
    model = make()
    first = predict(model)
    np.testing.assert_array_equal(predict(model), first)
    found = [first]
    changes = {"num_steps": 4}, {"start": "noise"}, {"seed": 5}
    changes += {"grid": "equal_mass"}, {"guidance_scale": 3.0}
    for change in changes:
        model.sampler = dataclasses.replace(model.sampler, **change)
        found.append(predict(model))
        assert np.abs(found[-1] - found[-2]).max() > 1e-4, change
    model.sampler = "heun"
    found.append(predict(model))
    assert np.abs(found[-1] - found[-2]).max() > 1e-4
    model.sampler = EulerSampler()
    np.testing.assert_array_equal(predict(model), first)


def fitted_saved_loaded(model, x, y, path):
    """A step of training, `predict`, and the same of the saved model."""
    model.compile("adamw")
    before = model.predict(x, verbose=0)
    history = model.fit(x, y, epochs=1, batch_size=len(x), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    made = model.predict(x, verbose=0)
    assert np.isfinite(made).all() and np.abs(made - before).max() > 1e-6
    losses = model.evaluate(x, y, verbose=0)
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), made, atol=1e-6)
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), losses, 1e-5)
    return loaded


@pytest.mark.slow
def test_the_sampler_of_the_docstring(tmp_path):
    # Ten steps: fewer of them would not reach the last block.
    model = make(sampler=Halving(10, factor=0.5, seed=2))
    path = tmp_path / "model.keras"
    loaded = fitted_saved_loaded(model, *data(), path)
    assert type(loaded.sampler) is Halving and loaded.sampler == model.sampler
    steps = model.steps_of(ops.convert_to_tensor(data(2)[0]))
    levels = [step["level"] for step in steps]
    np.testing.assert_allclose(levels, 80.0 * 0.5 ** np.arange(10))
    # It is Euler's method: the same as the library's on the same levels.
    clean, noisy = steps[0]["denoised"], steps[0]["noisy"]
    wanted = 0.5 * (ops.convert_to_numpy(clean) + ops.convert_to_numpy(noisy))
    ours = ops.convert_to_numpy(steps[1]["noisy"])
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.eager
def test_a_noise_and_a_target_of_one_s_own(tmp_path):
    model = composed(target=ScaledVector(3, 4.0), noise=LinearNoise(0.02, 3.0))
    path = tmp_path / "model.keras"
    loaded = fitted_saved_loaded(model, *vectors(), path)
    assert type(loaded.noise) is LinearNoise
    assert loaded.noise.get_config() == {"low": 0.02, "high": 3.0}
    assert type(loaded.target) is ScaledVector and loaded.target.scale == 4.0
    np.testing.assert_allclose(loaded.partition.boundaries, [0.02, 1.51, 3.0])


def test_an_unregistered_sampler_cannot_be_saved(tmp_path):
    model = make()
    model.build()
    model.sampler = Unregistered(num_steps=3)
    assert np.isfinite(predict(model)).all()
    match = r"Keras must know.*Received: a Unregistered.*\. Decorate"
    with pytest.raises(ValueError, match=match):
        model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=match):
        samplers.serialize(Unregistered())


@pytest.mark.eager
def test_a_model_with_an_unregistered_sampler_works_until_it_is_saved(tmp_path):
    model = make(sampler=Unregistered(num_steps=3))
    model.compile("adamw")
    model.fit(*data(), verbose=0)
    assert np.isfinite(predict(model)).all()
    with pytest.raises(ValueError, match="not registered"):
        model.save(tmp_path / "model.keras")


class NoStep(Sampler):
    def levels(self, partition):
        return [partition.noise.maximum]

    def calls(self, levels):
        return {"level": levels[:-1]}


class HalfNoise(LinearNoise):
    corrupt = Noise.corrupt
    start = Noise.start


class NoLoss(ScaledVector):
    loss = Target.loss


class NoShape(ScaledVector):
    signal_shape = Target.signal_shape


class NoCall(Preconditioning):
    pass


@pytest.mark.once
@pytest.mark.parametrize(
    "kind, contract, missing",
    [
        (Sampler, "Sampler", "`calls`, `levels`, `step`"),
        (NoStep, "Sampler", "`step`"),
        (HalfNoise, "Noise", "`corrupt`, `start`"),
        (NoLoss, "Target", "`loss`"),
        (NoShape, "Target", "`signal_shape`"),
        (NoCall, "Preconditioning", "`__call__`"),
    ],
)
def test_an_incomplete_part_is_refused(kind, contract, missing):
    name = kind.__name__
    match = f"A `{contract}` must define {missing}. Received: the class `{name}"
    with pytest.raises(TypeError, match=match):
        kind(3)


@pytest.mark.once
def test_complete_parts_are_made():
    assert EDMPreconditioning(sigma_data=0.4).sigma_data == 0.4
    assert LogNormalNoise(p_mean=0.0).p_mean == 0.0
    assert Vector(3).signal_shape == (3,)


FROM_NOISE = [
    EulerSampler(start="noise", seed=4),
    EulerSampler(5, "equal_mass", "noise"),
    StochasticSampler(6, churn=20.0, seed=1),
]


@pytest.mark.eager
@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(
            sampler, marks=pytest.mark.slow if i else (), id=sampler.grid
        )
        for i, sampler in enumerate(FROM_NOISE)
    ],
)
def test_answers_from_noise_do_not_depend_on_the_batch(sampler):
    model = make(sampler=sampler)
    x, _ = data(1000)
    wanted, again = (
        model.predict(x, batch_size=1000, verbose=0) for _ in range(2)
    )
    np.testing.assert_array_equal(again, wanted)
    for count, batch_size in ((30, 7), (3, 1), (7, 7)):
        ours = model.predict(x[:count], batch_size=batch_size, verbose=0)
        np.testing.assert_allclose(ours, wanted[:count], 1e-5, 1e-5)
    # The same rows among other rows.
    others = np.concatenate([x[:20], np.flip(x[20:], 0)])
    ours = model.predict(others, batch_size=64, verbose=0)
    np.testing.assert_allclose(ours[:20], wanted[:20], 1e-5, 1e-5)
    # The noise matters, and each row has its own.
    alike = model.predict(np.repeat(x[:1], 50, 0), batch_size=7, verbose=0)
    assert len(np.unique(alike[:, 0])) == 50
    model.sampler = dataclasses.replace(sampler, seed=9)
    other = model.predict(x[:30], batch_size=30, verbose=0)
    assert np.abs(other - wanted[:30]).max() > 1e-3


@pytest.mark.eager
@pytest.mark.parametrize("start", ["zero", "noise"])
@pytest.mark.parametrize("on_policy", [0.0, 0.5, 1.0])
def test_losses_of_evaluate_do_not_depend_on_the_batch(on_policy, start):
    model = make(sampler=EulerSampler(start=start))
    model.compile("adamw", metrics=["accuracy"], on_policy=on_policy)
    x, y = data(15)
    losses = [
        model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)
        for size in (15, 15, 7, 1)
    ]
    assert losses[0] == losses[1]
    for other in losses[1:]:
        assert other.keys() == losses[0].keys() >= {"block_0_loss", "loss"}
        for name, value in other.items():
            np.testing.assert_allclose(
                value, losses[0][name], 1e-5, err_msg=name
            )


def test_losses_of_a_block_s_evaluate_do_not_depend_on_the_batch():
    block = make().block(1)
    block.compile("adamw")
    x, y = data(60)
    first, *others = [
        block.evaluate(x, y, batch_size=size, verbose=0) for size in (60, 7, 1)
    ]
    np.testing.assert_allclose(others, [first] * 2, rtol=1e-5)
