"""Grids of noise levels equal the reference's and visit every block."""

import re

import numpy as np
import pytest

from helpers.toys import CHAINS, noise_of, wanted_route
from keras_dblocks.diffusion.log_normal import LogNormalNoise
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.samplers import EulerSampler, noise_levels, plan

pytestmark = pytest.mark.once


@pytest.mark.parametrize("blocks, steps, grid", CHAINS)
def test_every_block_is_visited(blocks, steps, grid):
    partition = Partition(LogNormalNoise(), 12, blocks)
    levels = noise_levels(partition, steps, grid)
    assert len(levels) == steps and (np.diff(levels) < 0).all()
    wanted = wanted_route(levels, blocks)
    # However a level is rounded, and whichever way.
    up = np.nextafter(levels.astype("float32"), np.float32(np.inf))
    for rounded in (levels, levels.astype("float32"), up):
        np.testing.assert_array_equal(partition.block_of(rounded), wanted)
    visits = plan(EulerSampler(steps, grid), partition)
    assert [visit.block for visit in visits] == [*range(blocks)]
    route = [visit.block for visit in visits for _ in visit.calls["level"]]
    assert route == wanted.tolist()
    path = np.concatenate([visit.calls["level"] for visit in visits])
    np.testing.assert_allclose(path, levels, rtol=1e-6)
    following = np.concatenate([visit.calls["following"] for visit in visits])
    np.testing.assert_array_equal(following, [*path[1:], 0.0])


@pytest.mark.quick
def test_reference_grids_and_routes(golden):
    reference = golden("noise")
    noise = noise_of(reference["config"])
    tried = 0
    for key in reference:
        route = re.fullmatch(r"route_halfopen_B(\d+)_n(\d+)", key)
        if route:
            blocks, steps = int(route[1]), int(route[2])
            partition = Partition(noise, blocks, blocks)
            levels = noise_levels(partition, steps, "equal_mass")
            for dtype in ("float64", "float32"):
                ours = partition.block_of(levels.astype(dtype))
                np.testing.assert_array_equal(ours, reference[key])
        grid = re.fullmatch(r"grid_(equimass|karras)_n(\d+)", key)
        if grid:
            name = grid[1].replace("equimass", "equal_mass")
            rho = reference["config"]["rho"]
            partition = Partition(noise, 3, 3)
            levels = noise_levels(partition, int(grid[2]), name, rho)
            np.testing.assert_allclose(levels, reference[key], rtol=1e-5)
        tried += bool(route) + bool(grid)
    assert tried >= 8


def test_upper_edges_split_each_block_evenly():
    partition = Partition(LogNormalNoise(), 6, 3)
    edges = partition.boundaries[:0:-1]
    np.testing.assert_allclose(noise_levels(partition, 3), edges, rtol=1e-9)
    above = 1.0 - partition.noise.cdf(noise_levels(partition, 7))
    # Three, two and two steps; the first blocks take what is left over.
    wanted = np.array([0, 1 / 3, 2 / 3, 1, 1.5, 2, 2.5]) / 3
    np.testing.assert_allclose(above, wanted, atol=1e-9)
