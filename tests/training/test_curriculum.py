"""Curricula: a function of the step, whose copies are made once."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_mlp import data, equal, refused, three_blocks, values
from keras_dblocks.training.curriculum import (
    Curriculum,
    Phase,
    PhasedSchedule,
    common_start,
    in_sequence,
)

SEQUENCE = {"curriculum": "in_sequence", "on_policy": 0.5}


def make(**kwargs):
    return three_blocks(**{"sharing": "targets", **kwargs})


def own(block):
    """The block's numbers but counters."""
    return values(block.copied_variables())


# The plan.


@pytest.mark.once
@pytest.mark.parametrize("blocks", [2, 3, 6])
def test_every_step_has_one_phase_and_shares_grow(blocks):
    curriculum = in_sequence(blocks)
    found = [curriculum.phase_of(step, 1000) for step in range(1000)]
    assert found == sorted(found) and {*found} == {*range(blocks)}
    counts = np.bincount(found)
    assert (np.diff(counts) > 0).all()
    assert curriculum.phase_of(1000, 1000) == blocks
    ends = curriculum.ends(1000)
    assert ends[-1] == 1000 and ends == np.cumsum(counts).tolist()
    if blocks == 3:  # the measured shares 1 : 2 : 4
        np.testing.assert_allclose(7 * counts / 1000, [1, 2, 4], 0.01)


@pytest.mark.once
def test_schedules_are_gone_through_in_every_phase():
    decay = keras.optimizers.schedules.PolynomialDecay(1.0, 100, 0.0)
    spans = common_start(2).spans(0, 200, 2)
    assert spans == [(0.0, 150.0, 1.0), (150.0, 25.0, 0.6)]
    assert common_start(2).spans(1, 200, 2) == [(0.0, 25.0, 0.6)]
    assert common_start(2).spans(None, 200, 2) == [
        (0.0, 150.0, 1.0),
        (150.0, 50.0, 0.6),
    ]
    schedule = PhasedSchedule(decay, 100.0, spans)
    found = [float(schedule(step)) for step in (0, 75, 150, 162.5, 175)]
    np.testing.assert_allclose(found, [1.0, 0.5, 0.6, 0.3, 0.0], atol=1e-6)
    again = PhasedSchedule.from_config(schedule.get_config())
    assert float(again(162.5)) == pytest.approx(0.3)


@pytest.mark.once
@pytest.mark.parametrize(
    ("curriculum", "match"),
    [
        ("backwards", "curriculum='backwards'"),
        ([], "shares above 0"),
        ([Phase(0.0, 0)], "shares above 0"),
        ([Phase(1.0, 3)], "blocks 0 to 2"),
        ([{"share": 1.0, "block": 0, "start_from": 7}], "blocks 0 to 2"),
        (7, "curriculum=7"),
    ],
)
def test_refusals(curriculum, match):
    refused(lambda: make().compile("adamw", curriculum=curriculum), match)


# Training.


class Turns(keras.callbacks.Callback):
    """Whose turn it was in every step, by the blocks' step counts."""

    def __init__(self):
        super().__init__()
        self.turns = []

    def on_train_batch_begin(self, batch, logs=None):
        model = self.model
        self.turns.append(model._turn(self.step))
        self.step += 1

    def on_epoch_begin(self, epoch, logs=None):
        self.step = self.model.training_step()


def test_blocks_train_in_sequence_from_copies():
    """Without any update all are copies of the first at the end."""
    x, y = data(48)
    model = make()
    model.compile(keras.optimizers.SGD(0.0), **SEQUENCE)
    first, turns = own(model.blocks[0]), Turns()
    assert not equal(own(model.blocks[1]), first)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[turns])
    blocks = [block for block, _ in turns.turns]
    assert blocks == sorted(blocks) and len(blocks) == 12
    assert [blocks.count(i) for i in range(3)] == [2, 3, 7]
    for block in model.blocks:
        assert equal(own(block), first)


def test_a_copy_is_made_once_and_later_fits_draw_blocks():
    x, y = data(48)
    model = make()
    model.compile(keras.optimizers.SGD(0.05), **SEQUENCE)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert int(model.curriculum_length) == 12
    trained = [own(block) for block in model.blocks]
    assert not any(equal(trained[0], other) for other in trained[1:])
    model.optimizer.learning_rate = 0.0
    turns = Turns()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[turns])
    assert {block for block, _ in turns.turns} == {0, 1, 2}
    for block, before in zip(model.blocks, trained, strict=True):
        assert equal(own(block), before)


@pytest.mark.heavy
def test_a_trained_model_is_not_trained_from_copies():
    """Not after `compile`, nor where blocks were trained alone."""
    x, y = data(16)
    for together in (True, False):
        model = make()
        type(model).default_curriculum = "in_sequence"
        try:
            if together:
                model.compile(keras.optimizers.SGD(0.01))
                assert model.curriculum_run.curriculum is not None
                model.fit(x, y, batch_size=8, verbose=0)
            else:
                block = model.block(1)
                block.compile("sgd")
                block.fit(x, y, verbose=0)
            model.compile(keras.optimizers.SGD(0.01))
            assert model.curriculum_run.curriculum is None
        finally:
            type(model).default_curriculum = "sampled"


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


@pytest.mark.heavy
def test_blocks_whose_turn_never_came_are_copies():
    x, y = data(48)
    model = make()
    model.compile(keras.optimizers.SGD(0.05), **SEQUENCE)
    model.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[Stop()])
    assert [int(count) for count in model.step_counts()] == [5, 1, 0]
    assert not equal(own(model.blocks[0]), own(model.blocks[1]))
    assert equal(own(model.blocks[1]), own(model.blocks[2]))


@pytest.mark.heavy
def test_a_common_start_learns_all_levels_and_is_copied():
    x, y = data(64)
    model = three_blocks(sharing="all")
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.01, 6), 0.9
        ),
        curriculum="common_start",
        on_policy=0,
    )
    turns = Turns()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[turns])
    assert turns.turns[:12] == [(0, True)] * 12
    assert all(not alone for _, alone in turns.turns[12:])
    block, noise = model.blocks[1], model.noise
    low, high, lowest, highest = block.loss_constants(True)[0]
    assert (low, high) == (0, 1)
    assert lowest == pytest.approx(noise.minimum)
    assert highest == pytest.approx(noise.maximum)
    inner = block.loss_constants()[0]
    assert inner[0] > 0 and inner[1] < 1


def test_shared_parts_are_not_trained_block_by_block():
    refused(
        lambda: three_blocks(sharing="all").compile("adamw", **SEQUENCE),
        'sharing="targets"',
    )


def stream(x, y):
    for i in range(0, len(x), 8):
        yield x[i : i + 8], y[i : i + 8]


@pytest.mark.heavy
def test_the_length_must_be_known():
    x, y = data(48)
    model = make()
    model.compile(keras.optimizers.SGD(0.05), **SEQUENCE)
    refused(lambda: model.fit(stream(x, y), verbose=0), "unknown length")
    refused(lambda: model.train_on_batch(x[:8], y[:8]), "a batch without")
    model.compile(keras.optimizers.SGD(0.05), curriculum_steps=12, **SEQUENCE)
    for _ in range(2):  # several calls are one run
        model.fit(stream(x, y), verbose=0)
    assert [int(count) for count in model.step_counts()] == [2, 3, 7]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "killed_at, hand_over",
    [
        (3, "signal"),
        (7, "state_alone"),
        *(pytest.param(s, "signal", marks=pytest.mark.slow) for s in (1, 7)),
    ],
)
def test_resumed_in_any_phase(tmp_path, killed_at, hand_over):
    """Same weights as unbroken, to the last bit."""
    x, y = data(48)

    def compiled():
        model = make(dropout=0.1, hand_over=hand_over)
        rate = keras.optimizers.schedules.CosineDecay(0.05, 4)
        model.compile(keras.optimizers.AdamW(rate), **SEQUENCE)
        return model

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        step = 0

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            if self.step == killed_at:
                raise Killed

    def fit(model, folder, *callbacks):
        backup = keras.callbacks.BackupAndRestore(
            folder, save_freq=1, delete_checkpoint=False
        )
        model.fit(
            x,
            y,
            batch_size=8,
            epochs=2,
            verbose=0,
            callbacks=[backup, *callbacks],
        )

    whole = compiled()
    fit(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(compiled(), tmp_path / "killed", Kill())
    resumed = compiled()
    fit(resumed, tmp_path / "killed")
    assert resumed.training_step() == whole.training_step() == 12
    for one, other in zip(resumed.blocks, whole.blocks, strict=True):
        assert equal(own(one), own(other))


@pytest.mark.heavy
def test_saved_and_loaded_between_phases(tmp_path):
    x, y = data(48)
    model = make()
    model.compile(keras.optimizers.SGD(0.05), curriculum_steps=24, **SEQUENCE)
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.curriculum_length) == 24
    for one in (model, loaded):
        one.fit(x, y, batch_size=8, epochs=3, verbose=0)
    for one, other in zip(model.blocks, loaded.blocks, strict=True):
        assert equal(own(one), own(other))


# What is handed over.


def test_a_copy_with_a_state_is_as_good_as_its_original():
    """What is handed over adds nothing at first, in any block."""
    model = make(hand_over="state")
    x, _ = data(16)
    x = ops.convert_to_tensor(x)
    block = model.block(0)
    noisy = keras.random.normal((16, 8), seed=1)
    level = ops.ones((16,))
    plain, (state,) = block.denoise_pass(noisy, level, x)
    handed, _ = block.denoise_pass(noisy, level, x, (state,))
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (plain, handed)))
    assert np.abs(ops.convert_to_numpy(state)).max() > 0.01
    kernel = block.state_input.projection.kernel
    kernel.assign(np.eye(8))
    changed, _ = block.denoise_pass(noisy, level, x, (state,))
    assert np.abs(ops.convert_to_numpy(changed - plain)).max() > 1e-3


@pytest.mark.heavy
def test_a_state_is_handed_through_predict_training_and_files(tmp_path):
    x, y = data(48)
    model = make(hand_over="state", num_layers=3)
    model.compile(keras.optimizers.Adam(0.02), on_policy=1.0)
    model.fit(x, y, batch_size=8, epochs=4, verbose=0)
    for block in model.blocks[1:]:
        assert np.abs(values([block.state_input.projection.kernel])).max() > 0
    before = model.predict(x, verbose=0)
    for index in range(3):
        model.block(index).save(tmp_path / f"{index}.keras")
    paths = [tmp_path / f"{index}.keras" for index in range(3)]
    again = type(model).from_blocks(paths)
    np.testing.assert_allclose(again.predict(x, verbose=0), before, atol=1e-6)
    other = make(hand_over="signal")
    refused(lambda: other.load_block(paths[1]), "hand_over")
    kernel = model.blocks[1].state_input.projection.kernel
    kernel.assign(np.zeros((8, 8)))
    assert np.abs(model.predict(x, verbose=0) - before).max() > 1e-4


def test_wrong_hand_overs_are_refused():
    refused(lambda: make(hand_over="states"), "hand_over='states'")


def test_curricula_and_phases_are_plain():
    curriculum = Curriculum([Phase(1.0, 0), Phase(3.0, 1, start_from=0)])
    assert curriculum.phase_of(24, num_steps=100) == 0
    assert curriculum.phase_of(25, num_steps=100) == 1
