"""Memory of training: what is measured, and what is foretold of it."""

import keras
import numpy as np
import pytest

from helpers.small_vit import refused, state
from keras_dblocks import memory
from keras_dblocks.applications import (
    MDM,
    ARTransformer,
    DiT,
    RecurrentDepth,
    ViT,
)
from keras_dblocks.applications.program.memory import main, twin
from keras_dblocks.memory.plan import example, shallow

SIZES = {"hidden_dim": 48, "num_heads": 2}
IMAGES = {"image_size": 16, "channels": 1, "num_classes": 4, **SIZES}
TOKENS = {"vocabulary_size": 27, "sequence_length": 64, **SIZES}
BACKEND = keras.backend.backend()
# A figure takes a compilation on JAX, and on TensorFlow a fresh process.
costly = [] if BACKEND == "torch" else [pytest.mark.slow]


def slowly(test):
    """Marks a test of several figures where each takes a process."""
    return pytest.mark.slow(test) if BACKEND == "tensorflow" else test


SYSTEMS = [
    (ViT, {**IMAGES, "num_layers": 6, "num_blocks": 1}),
    (DiT, {**IMAGES, "num_layers": 6, "num_blocks": 1}),
    (MDM, {**TOKENS, "num_layers": 6, "num_blocks": 1}),
    (ARTransformer, {**TOKENS, "num_layers": 6, "num_blocks": 1}),
    (RecurrentDepth, {**TOKENS, "core_layers": 6}),
]


def compiled(cls, config, **options):
    model = cls(**config)
    model.compile("adamw", on_policy=0.0, **options)
    return model


@pytest.mark.parametrize(
    ("cls", "config"),
    [SYSTEMS[0], *(pytest.param(*s, marks=costly) for s in SYSTEMS[1:])],
)
@slowly
def test_plan_is_what_is_measured(cls, config):
    model = compiled(cls, config)
    # TensorFlow's figure is that of a whole process: large enough to count.
    batch = 64 if BACKEND == "tensorflow" else 4
    found = memory.plan(model, batch).memory
    real = memory.measure(model, *example(model, batch))
    assert found.total == pytest.approx(real.total, rel=0.1)
    assert found.temporaries == pytest.approx(real.temporaries, rel=0.1)
    assert found.parameters == pytest.approx(real.parameters, rel=0.01)
    assert found.optimizer_state == pytest.approx(
        real.optimizer_state, rel=0.01
    )


@pytest.mark.slow
@slowly
@pytest.mark.parametrize(
    "sharing", ["targets", pytest.param("all", marks=costly)]
)
def test_plan_of_blocks_counts_what_is_resident(sharing):
    config = {**SYSTEMS[0][1], "num_blocks": 3, "sharing": sharing}
    model = compiled(ViT, config)
    found = memory.plan(model, 4).memory
    for part, variables in (
        ("parameters", model.weights),
        ("optimizer_state", model.optimizer.variables),
    ):
        real = sum(4 * np.prod(v.shape) for v in variables)
        assert getattr(found, part) == pytest.approx(real, rel=0.01)
    alone = memory.plan(model, 4, alone=True).memory
    kept = memory.plan(model, 4, offload="host").memory
    assert alone.parameters < 0.6 * found.parameters
    assert kept.optimizer_state == alone.optimizer_state
    assert kept.parameters == found.parameters
    # TensorFlow's are measured anew each time, by the peak of a process.
    anew = 0.1 if BACKEND == "tensorflow" else 0.0
    assert alone.temporaries == pytest.approx(found.temporaries, rel=anew)


@slowly
def test_measuring_changes_nothing():
    model = compiled(ViT, {**SYSTEMS[0][1], "num_blocks": 2, "dropout": 0.1})
    before = state(model)
    memory.measure(model, *example(model, 4))
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)


@slowly
def test_a_block_needs_less_than_the_twin_and_less_again_with_remat():
    config = {**SYSTEMS[0][1], "num_layers": 8}
    data = example(ViT(**config), 32)
    whole = memory.measure(twin(ViT, config), *data)
    block, again = (
        memory.measure(
            compiled(ViT, {**config, "num_blocks": 2, "remat": remat}),
            *data,
            blocks=[0],
        )
        for remat in (False, True)
    )
    assert block.temporaries < 0.6 * whole.temporaries
    assert again.temporaries < 0.75 * block.temporaries


@slowly
def test_one_block_alone_is_measured_with_its_own_state():
    model = ViT(**{**SYSTEMS[0][1], "num_blocks": 3, "sharing": "targets"})
    block = model.block(1)
    block.compile("adamw")
    found = memory.measure(block, *example(model, 4))
    trained = sum(4 * np.prod(v.shape) for v in block.trainable_variables)
    assert found.optimizer_state == pytest.approx(2 * trained, rel=0.01)
    assert found.total == sum(
        (found.parameters, found.optimizer_state, found.temporaries)
    )


@pytest.mark.slow
def test_budget_gives_the_fewest_blocks_and_then_the_largest_batch():
    model = ViT(**SYSTEMS[0][1])
    needs = {
        b: memory.plan(
            ViT(**{**SYSTEMS[0][1], "num_blocks": b}), 32
        ).memory.total
        for b in (1, 2, 6)
    }
    assert needs[1] > needs[2] > needs[6]
    found = memory.plan(model, 32, budget=needs[2])
    assert (found.num_blocks, found.batch_size) == (2, 32)
    found = memory.plan(model, 32, budget=f"{needs[6] - 1} B")
    assert found.batch_size == 16
    assert found.memory.total < needs[6]


@pytest.mark.once  # each asks a plan of several models
def test_refusals():
    model = ViT(**SYSTEMS[0][1])
    refused(lambda: memory.plan(model, 4, budget="1 kB"), "fit the budget")
    refused(lambda: memory.plan(model, 4, budget="much"), "bytes or a size")
    refused(lambda: memory.plan(model, 0), "batch_size")
    refused(lambda: memory.measure(model, *example(model, 2)), "training step")


@pytest.mark.slow  # compiles 14 steps on JAX
def test_program_prints_a_row_for_each_way(capsys):
    arguments = ["--preset", "vit_digits", "--batch-size", "2"]
    assert main([ViT], [*arguments, "--budget", "1 GiB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:32].strip(): line[32:].split() for line in lines[2:-2]}
    assert set(rows) == {
        "end to end",
        "end to end, remat",
        "end to end, 3 small batches",
        "3 blocks",
        "3 blocks, offload",
        "one block alone",
        "3 blocks, remat",
        "3 blocks, offload, remat",
        "one block alone, remat",
    }
    for parts in rows.values():
        *parts, total = map(float, parts)
        assert sum(parts) == pytest.approx(total, abs=0.21)
    assert lines[-1].startswith("1 GiB: num_blocks=1, batch 2")


def test_program_says_what_does_not_fit(capsys):
    arguments = ["--preset", "vit_digits", "--batch-size", "2"]
    assert main([ViT], [*arguments, "--num-blocks", "4"]) == 2
    assert "divide" in capsys.readouterr().err


@pytest.mark.quick
def test_shallow_model_has_the_asked_depth():
    for cls, config in SYSTEMS:
        model = shallow(cls(**config), 2)
        assert len(model.blocks[0].residual_layers) == 2
