"""The block of a step depends on (seed, step) alone."""

import numpy as np
import pytest
from scipy import stats

from keras_dblocks.training.block_order import BlockOrder

pytestmark = pytest.mark.once


def drawn(order, steps, **kwargs):
    order = BlockOrder(order, **kwargs)
    return [order(step) for step in range(steps)]


def counts(blocks, num_blocks):
    return np.bincount(blocks, minlength=num_blocks)


@pytest.mark.quick
def test_same_draws_everywhere():
    # Written down once: every backend, machine and version must repeat them.
    first = [2, 0, 2, 1, 1, 0, 2, 1, 1, 0, 1, 2]
    assert drawn("uniform", 12, num_blocks=3, seed=0) == first
    second = [2, 2, 2, 1, 2, 1, 2, 1, 2, 0, 1, 0]
    assert drawn("uniform", 12, num_blocks=3, seed=1) == second


def test_a_draw_needs_no_history():
    order = BlockOrder("uniform", num_blocks=4, seed=3)
    steps = np.random.default_rng(0).permutation(200)
    backwards = {int(step): order(int(step)) for step in steps}
    again = BlockOrder("uniform", num_blocks=4, seed=3)
    assert [backwards[step] for step in range(200)] == [
        again(step) for step in range(200)
    ]
    assert order(np.int64(7)) == order(7) == again(7)
    late = order(10**12)
    assert late == again(10**12) and late in range(4)
    assert isinstance(late, int)


@pytest.mark.parametrize("num_blocks", [2, 3, 6])
def test_uniform_frequencies(num_blocks):
    blocks = drawn("uniform", 3000, num_blocks=num_blocks, seed=5)
    observed = counts(blocks, num_blocks)
    assert stats.chisquare(observed).pvalue > 1e-3
    # Neither do steps follow on each other, nor seeds.
    table = np.zeros((num_blocks, num_blocks))
    np.add.at(table, (blocks[:-1], blocks[1:]), 1)
    assert stats.contingency.chi2_contingency(table).pvalue > 1e-3
    other = drawn("uniform", 3000, num_blocks=num_blocks, seed=6)
    same = np.mean(np.equal(blocks, other))
    assert abs(same - 1 / num_blocks) < 0.05


def test_weights():
    weights = [1, 0, 6, 3]
    blocks = drawn(weights, 3000, num_blocks=4, seed=2)
    observed = counts(blocks, 4)
    assert observed[1] == 0
    wanted = 3000 * np.array([1, 6, 3]) / 10
    assert stats.chisquare(observed[[0, 2, 3]], wanted).pvalue > 1e-3
    # Only proportions matter, and equal ones are the uniform order.
    scaled = drawn([0.5, 0.0, 3.0, 1.5], 200, num_blocks=4, seed=2)
    assert scaled == blocks[:200]
    assert drawn((2, 2, 2), 200, num_blocks=3) == drawn(
        "uniform", 200, num_blocks=3
    )
    assert drawn([0, 0, 1], 50, num_blocks=3) == [2] * 50


def test_weights_in_an_array():
    array = drawn(np.array([1.0, 2.0, 3.0]), 50, num_blocks=3)
    assert array == drawn([1, 2, 3], 50, num_blocks=3)


@pytest.mark.quick
def test_round_robin_and_one_block():
    assert drawn("round_robin", 7, num_blocks=3) == [0, 1, 2, 0, 1, 2, 0]
    assert drawn("round_robin", 3, num_blocks=3, seed=9) == [0, 1, 2]
    assert drawn("uniform", 3, num_blocks=1) == [0, 0, 0]
    assert drawn(2, 4, num_blocks=3) == [2, 2, 2, 2]
    assert drawn(np.int64(0), 2, num_blocks=3) == [0, 0]


@pytest.mark.parametrize(
    "order, wanted, came",
    [
        ("random", "uniform", "'random'"),
        (None, "uniform", "None"),
        (1.0, "uniform", "1.0"),
        (True, "uniform", "True"),
        (3, "blocks 0 to 2", "3"),
        (-1, "blocks 0 to 2", "-1"),
        ([1, 1], "one finite number", r"\[1, 1\] for 3"),
        ([1, -1, 1], "at least 0", r"\[1, -1, 1\]"),
        ([0, 0, 0], "one finite number", r"\[0, 0, 0\]"),
        ([1, float("nan"), 1], "finite", r"\[1, nan, 1\]"),
        ([1, float("inf"), 1], "finite", r"\[1, inf, 1\]"),
        (["a", 1, 1], "finite number", r"\['a', 1, 1\]"),
        ([None, 1, 1], "finite number", r"\[None, 1, 1\]"),
        ([[1], [1, 2], [1]], "finite number", r"\[\[1\], \[1, 2\], \[1\]\]"),
    ],
)
def test_refusals(order, wanted, came):
    match = rf"`block_order`.*{wanted}.*Received: {came}.*\. [A-Z].*\."
    with pytest.raises(ValueError, match=match):
        BlockOrder(order, num_blocks=3)
