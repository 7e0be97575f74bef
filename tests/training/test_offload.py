"""Idle blocks' state in host memory: the same training to the last bit."""

import functools
import importlib

import keras
import numpy as np
import pytest

from helpers.residual_mlp import example
from helpers.small_vit import equal, refused, state
from keras_dblocks import streams
from keras_dblocks.training import offload
from keras_dblocks.training.block_order import BlockOrder

BACKEND = keras.backend.backend()
if BACKEND != "tensorflow":
    moves = importlib.import_module(
        f"keras_dblocks.training.{BACKEND}_offload_step"
    )
moving = pytest.mark.skipif(BACKEND == "tensorflow", reason="refused there")
X, Y = example.spirals(40, seed=0)  # five steps of eight
BOTH = {"offload": "host", "offload_parameters": True}


def adam(**kwargs):
    return keras.optimizers.Adam(0.01, **kwargs)


def compiled(optimizer=None, sharing="all", **kwargs):
    keras.utils.set_random_seed(0)
    model = example.ResidualMLP(
        2, 3, width=8, num_layers=3, num_blocks=3, sharing=sharing
    )
    model.compile(optimizer or adam(), **kwargs)
    return model


def fit(model, epochs=2, **kwargs):
    kwargs = {"x": X, "y": Y, "batch_size": 8, **kwargs}
    return model.fit(epochs=epochs, verbose=0, **kwargs).history


SETTINGS = {
    "all": {"on_policy": 0.5},
    "visits": {"on_policy": 0.5, "steps_per_visit": 2},
    "apart": {
        "sharing": "targets",
        "on_policy": 0.0,
        "block_order": "round_robin",
        "steps_per_visit": 3,
    },
}


@functools.cache
def resident(name):
    """State and history of a training that moves nothing."""
    model = compiled(**SETTINGS[name])
    history = fit(model, validation_data=(X, Y))
    return state(model), history


def waiting(model, variables):
    """Which of these variables lie in host memory."""
    if BACKEND == "torch":
        return [moves._home(v) is not None for v in variables]
    held = [*model.trainable_variables, *model.optimizer.variables]
    now = model._jax_state
    now = [*now["trainable_variables"], *now["optimizer_variables"]]
    kinds = {
        id(v): value.sharding.memory_kind
        for v, value in zip(held, now, strict=True)
    }
    return [kinds[id(v)] == "pinned_host" for v in variables]


class Places(keras.callbacks.Callback):
    """After each step: the blocks whose state, and parameters, are away."""

    def on_train_begin(self, logs=None):
        self.states, self.parameters = [], []

    def on_train_batch_end(self, batch, logs=None):
        model = self._model  # `self.model` syncs on JAX, and all come home
        self.states.append(set())
        self.parameters.append(set())
        for i, own in enumerate(model.own_variables()):
            optimizer = model.optimizer.parts[i]
            moments = [v for v in optimizer.variables if v.ndim]
            for variables, sets in (
                (moments, self.states),
                (own, self.parameters),
            ):
                (away,) = set(waiting(model, variables))  # all or none
                if away:
                    sets[-1].add(i)


@moving
@pytest.mark.parametrize(
    "parameters", [True, pytest.param(False, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if i else ())
        for i, name in enumerate(SETTINGS)
    ],
)
def test_nothing_changes_and_two_blocks_are_resident(name, parameters):
    wanted, wanted_history = resident(name)
    model = compiled(
        **SETTINGS[name], offload="host", offload_parameters=parameters
    )
    places = Places()
    history = fit(model, validation_data=(X, Y), callbacks=[places])
    assert equal(state(model), wanted)
    np.testing.assert_equal(history, wanted_history)  # a NaN is a NaN
    if BACKEND == "jax":
        (device,) = model.weights[0].value.sharding.device_set
        kinds = {memory.kind for memory in device.addressable_memories()}
        if "pinned_host" not in kinds:
            return  # it keeps everything
    for step in range(10):
        now, then = model.block_order(step), model.block_order(step + 1)
        assert places.states[step] == {0, 1, 2} - {now, then}
        # The hand-over reads the blocks before.
        first = 0 if model.on_policy else 3
        here = {now, then, *range(first, max(now, then))}
        away = {0, 1, 2} - here if parameters else set()
        assert places.parameters[step] == away


@pytest.mark.slow
@moving
def test_a_callback_runs_the_model_inside_an_epoch():
    def run(batch, logs):
        model.jax_state_sync() if BACKEND == "jax" else model.eval()
        seen.append(model.predict(X, verbose=0))

    results = []
    for kwargs in ({}, BOTH):
        seen = []
        model = compiled(**SETTINGS["all"], **kwargs)
        look = keras.callbacks.LambdaCallback(on_train_batch_end=run)
        fit(model, epochs=1, callbacks=[look])
        results.append([*seen, *state(model)])
    assert equal(*results)


@pytest.mark.heavy
@moving
def test_saved_loaded_and_resumed(tmp_path):
    wanted, _ = resident("apart")
    model = compiled(**SETTINGS["apart"], **BOTH)
    fit(model, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.offload == "host" and loaded.offload_parameters
    assert loaded.block_order.steps_per_visit == 3
    fit(loaded, epochs=1)
    assert equal(state(loaded), wanted)


@pytest.mark.heavy
@moving
def test_one_batch_at_a_time_and_a_bad_one():
    wanted, _ = resident("apart")
    model = compiled(**SETTINGS["apart"], **BOTH)
    # The batches of `fit`, whose order is drawn from seed and step.
    for epoch in (0, 5):
        draws = streams.generator(model.seed, "data_order", epoch)
        order = draws.permutation(40)
        for rows in order.reshape(5, 8):
            model.train_on_batch(X[rows], Y[rows])
    model.epoch_start.assign(5)
    assert equal(state(model), wanted)

    def batches():
        yield X[:8], Y[:8]
        yield np.full_like(X[:8], np.nan), Y[:8]

    with pytest.raises(ValueError, match="Batch 2: .*NaN"):
        fit(model, x=batches(), y=None, batch_size=None)
    assert np.isfinite(model.predict(X, verbose=0)).all()
    if BACKEND == "torch":  # `predict` is `eval()` first
        assert not any(waiting(model, model.trainable_variables))


@pytest.mark.slow
@moving
def test_averages_of_weights_stay():
    results = []
    for kwargs in ({}, BOTH):
        optimizer = adam(use_ema=True, ema_momentum=0.5)
        model = compiled(optimizer, block_order=[1, 1, 0], **kwargs)
        fit(model)
        results.append([model.predict(X, verbose=0), *state(model)])
    assert equal(*results)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="nothing is compiled")
@pytest.mark.parametrize("moves", [{}, BOTH], ids=["stays", "moves"])
def test_blocks_of_the_same_layers_are_compiled_once(moves, monkeypatch):
    from keras_dblocks.training import jax_step

    steps = []

    class Kept(jax_step.JaxStep):
        def __init__(self, *args):
            super().__init__(*args)
            steps.append(self)

    monkeypatch.setattr(jax_step, "JaxStep", Kept)
    fit(compiled(on_policy=0.5, block_order="round_robin", **moves))
    programs = [step.step_program.function for step in steps]
    assert [program._cache_size() for program in programs] == [1, 0, 0]
    # What is handed over comes from 0, 1 and 2 blocks.
    passes = [[p[0].function for p in s.passes.values()] for s in steps]
    times = [[program._cache_size() for program in p] for p in passes]
    assert times == [[], [1], [1, 0]]


def test_what_moves():
    model = compiled(on_policy=0, offload="host")
    names = [[v.name for v in group] for group in offload.needed(model)]
    own = model.own_variables()
    assert list(map(len, names)) == [2 * len(group) for group in own]
    assert not {"iteration", "learning_rate"} & set(sum(names, []))
    # Momentum-free SGD keeps nothing.
    assert offload.needed(compiled("sgd", offload="host")) == [[], [], []]


@pytest.mark.once
@pytest.mark.parametrize("order", ["uniform", "round_robin", 1, [1, 2, 3]])
def test_steps_per_visit(order):
    once = BlockOrder(order, num_blocks=3, seed=4)
    often = BlockOrder(order, num_blocks=3, seed=4, steps_per_visit=3)
    assert [often(step) for step in range(60)] == [
        once(step // 3) for step in range(60)
    ]


REFUSED = {
    "place": ({"offload": "disk"}, "`offload`.*offload='disk'"),
    "yes": ({"offload": True}, "`offload`.*offload=True"),
    "parameters": ({"offload_parameters": True}, "offload=None"),
    "no steps": ({"steps_per_visit": 0}, "steps_per_visit=0"),
    "half a step": ({"steps_per_visit": 1.5}, "steps_per_visit=1.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_compile_refuses(name):
    kwargs, match = REFUSED[name]
    refused(lambda: compiled(**kwargs), match)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="trains elsewhere")
def test_tensorflow_loads_but_does_not_train(tmp_path):
    compiled(**BOTH).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    refused(lambda: fit(model), "needs JAX or PyTorch", model)
    assert model.predict(X, verbose=0).shape == (40, 3)
