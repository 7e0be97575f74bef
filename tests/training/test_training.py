"""Two ways to train, proven equal; only the active block moves."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.hand_overs import handed_over
from helpers.residual_mlp import example
from helpers.small_mlp import data, three_blocks, values


class Losses(keras.callbacks.Callback):
    """Loss of every step, and the block that made it."""

    def __init__(self):
        super().__init__()
        self.steps, self.last = [], {}

    def on_train_batch_end(self, batch, logs=None):
        now = {k: float(v) for k, v in logs.items() if "block" in k}
        now = {k: v for k, v in now.items() if not np.isnan(v)}  # undrawn
        (drawn,) = (k for k in now if now[k] != self.last.get(k))
        self.steps.append(drawn)
        self.last = now


def adamw():
    return keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.01, 4),
        weight_decay=0.1,
        global_clipnorm=0.5,
        # A bias of keys cancels in the softmax: its gradient is rounding,
        # which Adam would blow up to full steps.
        epsilon=1e-3,
    )


def way_one(model, optimizer, x, y, steps, batch=8):
    """Each block by itself, on the batches a round robin would give it."""
    losses = {}
    for i in range(model.num_blocks):
        block = model.block(i)
        block.compile(optimizer())
        for step in range(i, steps, model.num_blocks):
            rows = slice(step * batch, (step + 1) * batch)
            history = block.fit(
                x[rows], y[rows], batch_size=batch, verbose=0, shuffle=False
            )
            losses[step] = history.history["loss"][0]
    return [losses[step] for step in range(steps)]


def way_two(model, optimizer, x, y, batch=8):
    model.compile(optimizer(), on_policy=0, block_order="round_robin")
    model.fit(x, y, batch_size=batch, verbose=0, shuffle=False)


@pytest.mark.parametrize(
    "dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3]
)
def test_both_ways_are_equal_when_blocks_are_independent(dropout):
    x, y = data(72)
    one = three_blocks(sharing="targets", dropout=dropout)
    two = three_blocks(sharing="targets", dropout=dropout)
    start = values(two.trainable_variables)
    way_one(one, adamw, x, y, steps=9)
    way_two(two, adamw, x, y)
    for a, b in zip(
        values(one.trainable_variables),
        values(two.trainable_variables),
        strict=True,
    ):
        # Adam divides by small numbers: rounding of another order of sums
        # (threads) grows to a few 1e-6 in nine steps.
        np.testing.assert_allclose(a, b, atol=1e-5)
    moved = zip(values(two.trainable_variables), start, strict=True)
    assert sum(np.abs(b - c).max() > 1e-4 for b, c in moved) > 30


@pytest.mark.eager
def test_both_ways_are_equal_when_blocks_share():
    # SGD keeps no state, so one optimizer for the shared parts and one per
    # block amount to the same.
    def sgd():
        return keras.optimizers.SGD(0.1, weight_decay=0.01, global_clipnorm=0.5)

    x, y = data(72)
    one, two = three_blocks(), three_blocks()
    for i in range(3):
        one.block(i).compile(sgd())
    for step in range(9):
        rows = slice(step * 8, (step + 1) * 8)
        one.block(step % 3).fit(
            x[rows], y[rows], batch_size=8, verbose=0, shuffle=False
        )
    way_two(two, sgd, x, y)
    for a, b in zip(
        values(one.trainable_variables),
        values(two.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("on_policy", "active"),
    [
        (0.5, 2),
        *(
            pytest.param(*p, marks=pytest.mark.heavy)
            for p in [(0.0, 0), (1.0, 2)]
        ),
    ],
)
def test_only_the_active_block_moves(on_policy, active):
    x, y = data(24)
    model = three_blocks()
    # A first fit on all blocks, so that every optimizer has a state to lose.
    model.compile(adamw(), on_policy=on_policy, block_order="round_robin")
    model.fit(x, y, batch_size=8, verbose=0)
    optimizers = model.optimizer
    model.block_order.order, model.block_order.cumulative = active, None
    model.train_function = None
    own = model.own_variables()
    before = [values(group) for group in own]
    shared = values(model.shared_variables())
    states = [values(o.variables) for o in optimizers.parts]
    model.fit(x[:8], y[:8], batch_size=8, verbose=0)
    for i in range(3):
        same = all(
            np.array_equal(a, b)
            for a, b in zip(before[i], values(own[i]), strict=True)
        )
        assert same == (i != active)
        same = all(
            np.array_equal(a, b)
            for a, b in zip(
                states[i],
                values(optimizers.parts[i].variables),
                strict=True,
            )
        )
        assert same == (i != active)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(shared, values(model.shared_variables()), strict=True)
    )


class Unlike(keras.layers.Layer):
    """Of the same shapes in every block, but another function."""

    def __init__(self, index, **kwargs):
        super().__init__(**kwargs)
        self.factor = np.full(8, index + 1, "float32")  # a constant array
        self.dense = keras.layers.Dense(8)

    def build(self, x_shape):
        self.dense.build(x_shape)

    def call(self, x):
        return x + ops.convert_to_tensor(self.factor) * self.dense(x)


class UnlikeBlocks(example.ResidualMLP):
    def make_layer(self, index):
        return Unlike(index)


@pytest.mark.eager
def test_each_block_takes_its_own_step():
    # JAX compiles blocks of the same layers once; these are not the same.
    results = []
    for eagerly in (False, True):
        keras.utils.set_random_seed(0)
        model = UnlikeBlocks(2, 3, width=8, num_layers=3, num_blocks=3)
        model.compile(
            keras.optimizers.SGD(0.1),
            on_policy=0.5,
            block_order="round_robin",
            run_eagerly=eagerly,
        )
        model.fit(*example.spirals(48, 0), batch_size=8, verbose=0)
        results.append(values(model.trainable_variables))
    for compiled, eager in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, eager, atol=1e-5)


@pytest.mark.heavy
def test_blocks_drawn_are_those_of_the_block_order():
    x, y = data(72)
    model = three_blocks()
    model.compile("sgd", on_policy=0)
    losses = Losses()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[losses])
    wanted = [f"block_{model.block_order(k)}_loss" for k in range(18)]
    assert losses.steps == wanted
    assert model.training_step() == 18


@pytest.mark.heavy
def test_schedule_runs_in_each_blocks_own_steps():
    x, y = data(72)
    model = three_blocks()
    model.compile(adamw(), on_policy=0, block_order="round_robin")
    model.fit(x, y, batch_size=8, verbose=0)
    steps = [int(o._iterations) for o in model.optimizer.parts]
    assert steps == [3, 3, 3, 9]
    rates = [float(o.learning_rate) for o in model.optimizer.parts]
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 4)
    np.testing.assert_allclose(rates, float(schedule(3)), rtol=1e-6)


def moved_from_the_start():
    """At the start, layers are plain."""
    model = three_blocks()
    for variable in model.trainable_variables:
        noise = keras.random.normal(variable.shape, stddev=0.3, seed=3)
        variable.assign(variable + noise)
    return model


@pytest.mark.quick
def test_on_policy_input_is_what_inference_hands_over():
    x, _ = data(4)
    model = moved_from_the_start()
    model.compile("sgd", on_policy=1.0)
    steps = model.steps_of(ops.convert_to_tensor(x))
    for i in range(3):
        handed, _ = handed_over(model, i, ops.convert_to_tensor(x), None)
        np.testing.assert_allclose(
            ops.convert_to_numpy(handed),
            ops.convert_to_numpy(steps[i]["noisy"]),
            atol=1e-6,
        )


@pytest.mark.heavy
def test_a_step_trains_on_what_is_handed_over():
    # Nothing is drawn then, so that the loss of a step is known before.
    x, y = map(ops.convert_to_tensor, data(8))
    model = moved_from_the_start()
    for i in range(3):
        model.compile("sgd", on_policy=1.0, block_order=i)
        handed = handed_over(model, i, x, y)
        block = model.blocks[i]
        constants = block.loss_constants()
        wanted = block.training_loss((x, y, None), handed, constants)
        wanted = ops.convert_to_numpy(wanted)
        logs = model.train_on_batch(*data(8), return_dict=True)
        assert float(logs[f"block_{i}_loss"]) == pytest.approx(wanted, 1e-5)


@pytest.mark.slow
def test_on_policy_share_of_the_batch():
    x, y = data(10)
    model = three_blocks()
    for share, count in ((0.5, 5), (0.25, 3), (1.0, 10)):
        model.compile("sgd", on_policy=share)
        handed, level = handed_over(model, 2, ops.convert_to_tensor(x), y)
        assert handed.shape == (count, 8) and level.shape == (count,)
    model.compile("sgd", on_policy=0)
    assert handed_over(model, 2, ops.convert_to_tensor(x), y) is None


def test_gradient_accumulation_counts_per_block():
    def sgd():
        return keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)

    x, y = data(72)
    model = three_blocks(sharing="targets")
    model.compile(sgd(), on_policy=0, block_order="round_robin")
    start = values(model.trainable_variables)
    model.fit(x[:48], y[:48], batch_size=8, verbose=0)  # two steps a block
    for a, b in zip(start, values(model.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)
    model.fit(x[48:], y[48:], batch_size=8, verbose=0)  # the third
    moved = zip(start, values(model.trainable_variables), strict=True)
    assert sum(not np.array_equal(a, b) for a, b in moved) > 30


@pytest.mark.heavy
def test_fit_learns_and_validation_is_not_noise():
    x, y = data(256)
    model = three_blocks()
    model.compile(keras.optimizers.Adam(0.03), metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=16, verbose=0)
    first = model.evaluate(x, y, return_dict=True, verbose=0)
    again = model.evaluate(x, y, return_dict=True, verbose=0)
    assert first == again
    assert first["accuracy"] > 0.7
    blocks = [first[f"block_{i}_loss"] for i in range(3)]
    np.testing.assert_allclose(first["loss"], np.mean(blocks), rtol=1e-5)
    steps = model.predict_steps(x)
    np.testing.assert_allclose(
        steps[-1], model.predict(x, verbose=0), atol=1e-5
    )


def test_one_block_is_the_plain_model():
    # One block sees the whole noise distribution, without overlap:
    # docs/method.md#overlap
    model = three_blocks(num_blocks=1)
    assert model.partition.noise_range(0) == (0.002, 80.0)
    x, y = data(32)
    model.compile("adamw")
    history = model.fit(x, y, epochs=2, verbose=0).history
    assert history["loss"] == history["block_0_loss"]
