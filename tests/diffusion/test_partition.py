"""Every block owns 1/B of the noise; levels and layers find their block."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from helpers.small_vit import refused
from helpers.toys import log_sigma, noise_of
from keras_dblocks.diffusion.log_normal import LogNormalNoise
from keras_dblocks.diffusion.partition import KINDS, Partition

pytestmark = pytest.mark.once

BLOCKS = (1, 2, 3, 4, 6)


def equal_partition(num_blocks, noise=None, **kwargs):
    return Partition(noise or LogNormalNoise(), 12, num_blocks, **kwargs)


@pytest.mark.quick
def test_reference_boundaries_ranges_and_masses(golden):
    reference = golden("noise")
    config = reference["config"]
    noise = noise_of(config)
    normal = stats.norm(config["p_mean"], config["p_std"])
    kept = np.diff(normal.cdf(np.log([noise.minimum, noise.maximum])))
    tried = 0
    for key in reference:
        found = re.fullmatch(r"range_B(\d+)_gamma(\w+)", key)
        if not found:
            continue
        tried += 1
        blocks, overlap = int(found[1]), float(found[2].replace("p", "."))
        partition = Partition(noise, blocks, blocks, overlap=overlap)
        np.testing.assert_allclose(
            partition.boundaries, reference[f"boundaries_B{blocks}"], rtol=1e-9
        )
        for k in range(blocks):  # the reference counts from the lowest noise
            block = blocks - 1 - k
            low, high = partition.noise_range(block)
            np.testing.assert_allclose(
                (low, high), reference[key][k], rtol=1e-9
            )
            low, high = partition.probability_range(block)
            mass = reference[f"rangemass_B{blocks}_gamma{found[2]}"][k]
            np.testing.assert_allclose((high - low) * kept, mass, rtol=1e-9)
    assert tried >= 4


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("p_mean", [-1.2, 0.3])
def test_every_range_has_the_same_probability(blocks, p_mean):
    noise = LogNormalNoise(p_mean=p_mean, sigma_max=40.0)
    partition = equal_partition(blocks, noise)
    edge = noise.maximum
    for block in range(blocks):
        low, high = partition.noise_range(block, overlap=False)
        assert high == edge > low  # they meet: no gap, no overlap
        mass = np.diff(log_sigma(noise).cdf(np.log([low, high])))
        np.testing.assert_allclose(mass, 1 / blocks, rtol=1e-9)
        edge = low
    assert edge == noise.minimum
    assert (np.diff(partition.boundaries) > 0).all()


@pytest.mark.parametrize("blocks", BLOCKS)
def test_widened_ranges(blocks):
    plain = equal_partition(blocks, overlap=0.0)
    wide = equal_partition(blocks, overlap=0.1)
    for block in range(blocks):
        low, high = plain.noise_range(block)
        assert (low, high) == wide.noise_range(block, overlap=False)
        factor = (high / low) ** 0.1
        wanted = max(low / factor, 0.002), min(high * factor, 80.0)
        np.testing.assert_allclose(wide.noise_range(block), wanted, rtol=1e-12)
        np.testing.assert_allclose(
            wide.probability_range(block),
            log_sigma(wide.noise).cdf(np.log(wanted)),
            atol=1e-12,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_boundary_belongs_to_the_range_below(blocks, kind):
    partition = equal_partition(blocks, kind=kind)
    for k, edge in enumerate(partition.boundaries[1:]):
        block = blocks - 1 - k
        for level in (edge, edge * (1 + 1e-6), edge * (1 - 1e-6)):
            assert partition.block_of(level) == block
            assert partition.block_of(np.float32(level)) == block
        if block:
            assert partition.block_of(edge * (1 + 1e-4)) == block - 1
    last = partition.block_of(partition.noise.minimum)
    assert last == blocks - 1 and isinstance(last, int)
    both = partition.block_of([[80.0], [0.002]])
    np.testing.assert_array_equal(both, [[0], [blocks - 1]])


def test_a_block_outside_is_refused():
    partition = equal_partition(3)
    for ask in (
        partition.layers_of,
        partition.noise_range,
        partition.probability_range,
    ):
        assert [ask(i) for i in (-3, -2, -1)] == [ask(i) for i in range(3)]
        for block in (3, -4, 1.0, "0", None):
            refused(lambda ask=ask, block=block: ask(block), "0 to 2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_level_outside_is_refused(kind):
    partition = equal_partition(3, kind=kind)
    for level in (0.002 * (1 - 1e-6), 80 * (1 + 1e-6)):
        assert partition.block_of(np.float32(level)) in (0, 2)
    for level in (0.002 * (1 - 1e-4), 80 * (1 + 1e-4), -1.0, np.nan, np.inf):
        for levels in (level, [1.0, level]):
            refused(
                lambda levels=levels: partition.block_of(levels),
                f"0.002 to 80.0. Received: {level}",
            )


def test_layers():
    partition = equal_partition(3)
    assert partition.layers_per_block == [4, 4, 4]
    assert [*partition.layers_of(1)] == [4, 5, 6, 7]
    partition = equal_partition(3, layers_per_block=[3, 6, 3])
    layers = [[*partition.layers_of(block)] for block in range(3)]
    assert layers == [[0, 1, 2], [3, 4, 5, 6, 7, 8], [9, 10, 11]]
    # Blocks need not divide the layers when they are listed.
    uneven = Partition(LogNormalNoise(), 5, 2, layers_per_block=(4, 1))
    assert [*uneven.layers_of(1)] == [4]
    np.testing.assert_array_equal(
        partition.boundaries, equal_partition(3).boundaries
    )


def test_boundaries_of_the_ablations():
    # Equal intervals of ln sigma and of sigma: docs/method.md#partition
    last = equal_partition(3, kind="mostly_last")
    shares = [
        np.ptp(last.probability_range(i, overlap=False)) for i in range(3)
    ]
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.6])
    log_uniform = equal_partition(4, kind="log_uniform").boundaries
    np.testing.assert_allclose(log_uniform, np.geomspace(0.002, 80, 5))
    linear = equal_partition(4, kind="linear").boundaries
    np.testing.assert_allclose(linear, np.linspace(0.002, 80, 5))


def test_description_says_what_files_must_share():
    first = equal_partition(3).describe()
    assert json.loads(json.dumps(first)) == first
    assert first["layers_per_block"] == [4, 4, 4]
    np.testing.assert_allclose(
        first["boundaries"], equal_partition(3).boundaries, rtol=1e-5
    )
    assert equal_partition(3, overlap=0.1).describe() == first
    other_noise = LogNormalNoise(p_mean=-1.0)
    for other in (
        equal_partition(2),
        equal_partition(3, layers_per_block=[3, 6, 3]),
        equal_partition(3, kind="log_uniform"),
        equal_partition(3, other_noise),
    ):
        assert other.describe() != first


@pytest.mark.parametrize(
    "wrong, wanted, came, cure",
    [
        ({"num_blocks": 5}, "divide", "num_blocks=5 for 12", "1, 2, 3, 4, 6"),
        ({"num_blocks": 13}, "exceed", "num_blocks=13 for 12", "Use one of"),
        ({"num_blocks": 0}, "at least 1", "num_blocks=0", "Pass"),
        ({"num_blocks": 3.0}, "integer", "num_blocks=3.0", "Pass"),
        ({"num_blocks": True}, "integer", "num_blocks=True", "Pass"),
        ({"num_layers": -2}, "at least 1", "num_layers=-2", "Pass"),
        ({"overlap": -0.1}, "overlap", "overlap=-0.1", "0.05"),
        ({"overlap": 1.5}, "overlap", "overlap=1.5", "0.05"),
        ({"overlap": float("nan")}, "overlap", "overlap=nan", "0.05"),
        ({"overlap": None}, "overlap", "overlap=None", "0.05"),
        ({"kind": "log"}, "partition", "'log'", "equal_probability"),
        ({"layers_per_block": [6, 6]}, "per block", r"\[6, 6\]", "Change"),
        ({"layers_per_block": [4, 4, 5]}, "sum to", r"\[4, 4, 5\]", "Change"),
        ({"layers_per_block": [0, 6, 6]}, "positive", r"\[0, 6, 6\]", "Change"),
        ({"layers_per_block": []}, "per block", r"\[\]", "Change"),
    ],
)
def test_refusals(wrong, wanted, came, cure):
    arguments = {"num_layers": 12, "num_blocks": 3, **wrong}
    match = rf"{wanted}.*Received: .*{came}.*\. .*{cure}.*\."
    with pytest.raises(ValueError, match=match):
        Partition(LogNormalNoise(), **arguments)


@pytest.mark.parametrize(
    "layers", [4, [4.9, 4.2, 4.0], ["four", 4, 4], [True, 5, 6]]
)
def test_refusals_of_layers_that_are_no_list_of_integers(layers):
    match = r"`layers_per_block`.*Received: .*\. Change"
    with pytest.raises(ValueError, match=match):
        equal_partition(3, layers_per_block=layers)
