"""Sampling visits every block, and solves the equation it claims to solve."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.noise import LogNormalNoise
from keras_dblocks.partition import Partition
from keras_dblocks.samplers import (
    EulerSampler,
    euler_step,
    hand_over,
    noise_levels,
    plan,
)

EDM = 1e-5  # golden/README.md: Euler's final state, float32
NUM_LAYERS = 12
CHAINS = [
    (blocks, steps, grid)
    for blocks in (2, 3, 4, 6)
    for steps in sorted({blocks, blocks + 1, max(4, blocks), 50})
    for grid in ("upper_edges", "equal_mass")
]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def noise_of(config):
    names = ("p_mean", "p_std", "sigma_min", "sigma_max")
    return LogNormalNoise(**{name: config[name] for name in names})


class Vector(keras.layers.Layer):
    """A clean signal that is its own estimate."""

    def __init__(self, dim):
        super().__init__()
        self.signal_shape = (dim,)

    def build(self, y_shape=None):
        pass

    def call(self, y):
        return y

    def bridge(self, prediction):
        return prediction


class Blank(keras.layers.Layer):
    """A stem that forgets the signal."""

    def call(self, x, condition):
        return ops.zeros_like(x)


class Tally(keras.layers.Layer):
    """Adds 1 to the component with its own number, and counts its calls."""

    def __init__(self, index, calls):
        super().__init__()
        self.index = index
        self.calls = calls

    def call(self, x, noise):
        self.calls[self.index] += 1
        return x + ops.one_hot(self.index, NUM_LAYERS)


class Tallies(DiffusionBlocks):
    """Component l of the signal tells when layer l ran."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = np.zeros(NUM_LAYERS, int)

    def condition_spec(self):
        return keras.KerasTensor((None, 1))

    def make_target(self):
        return Vector(NUM_LAYERS)

    def make_stem(self):
        return Blank()

    def make_layer(self, index):
        return Tally(index, self.calls)

    def make_readout(self):
        return keras.layers.Identity()

    def make_noise_embedding(self):
        return keras.layers.Identity()


@pytest.fixture(scope="module")
def tallies():
    made = {}

    def model(num_blocks):
        if num_blocks not in made:
            made[num_blocks] = Tallies(
                num_layers=NUM_LAYERS, num_blocks=num_blocks
            )
            made[num_blocks].build()
        return made[num_blocks]

    return model


def share_above(levels, noise):
    """Probability of a level above each of `levels`, from the grid's rule."""
    return 1.0 - noise.cdf(levels)


def wanted_blocks(levels, num_blocks):
    """Half-open routing of equal ranges, written a second time."""
    share = share_above(np.asarray(levels, "float64"), LogNormalNoise())
    return np.minimum(np.floor(share * num_blocks + 1e-6), num_blocks - 1)


def tally_of(levels, blocks, num_blocks):
    """float64 prediction of `Tallies` after a start from zero."""
    layers = np.arange(NUM_LAYERS) // (NUM_LAYERS // num_blocks)
    noisy = np.zeros(NUM_LAYERS)
    for level, following, block in zip(
        levels, [*levels[1:], 0.0], blocks, strict=True
    ):
        c_skip = 0.25 / (level**2 + 0.25)
        c_out = 0.5 * level / np.sqrt(level**2 + 0.25)
        denoised = c_skip * noisy + c_out * (layers == block)
        noisy += (level - following) * (denoised - noisy) / level
    return denoised


@pytest.mark.parametrize("blocks, steps, grid", CHAINS)
def test_every_block_is_visited(tallies, blocks, steps, grid):
    partition = tallies(blocks).partition
    levels = noise_levels(partition, steps, grid)
    assert len(levels) == steps and (np.diff(levels) < 0).all()
    wanted = wanted_blocks(levels, blocks)
    assert set(wanted) == set(range(blocks))
    # However a level is rounded, and whichever way.
    up = np.nextafter(levels.astype("float32"), np.float32(np.inf))
    for rounded in (levels, levels.astype("float32"), up):
        visits = plan(partition, rounded)
        assert [visit.block for visit in visits] == list(range(blocks))
        route = [visit.block for visit in visits for _ in visit.levels]
        assert route == wanted.tolist()
        path = np.concatenate([visit.levels for visit in visits])
        np.testing.assert_allclose(path, levels, rtol=1e-6)
        following = np.concatenate([visit.next_levels for visit in visits])
        np.testing.assert_array_equal(following, [*path[1:], 0.0])


@pytest.mark.parametrize("blocks, steps, grid", CHAINS)
def test_every_layer_is_called(tallies, blocks, steps, grid):
    model = tallies(blocks)
    sampler = EulerSampler(steps, grid)
    condition = ops.zeros((2, 1))
    model.calls[:] = 0
    path = sampler.trajectory(model, condition)
    levels = [step["level"] for step in path]
    wanted = wanted_blocks(levels, blocks)
    calls = np.repeat(np.bincount(wanted.astype(int)), NUM_LAYERS // blocks)
    np.testing.assert_array_equal(model.calls, calls)
    assert model.calls.min() > 0
    # A compiled loop calls Python once: there the answer tells who ran.
    tally = np.stack([tally_of(levels, wanted, blocks)] * 2)
    assert tally.min() > 1e-4
    for prediction in (path[-1]["prediction"], sampler(model, condition)):
        np.testing.assert_allclose(numpy(prediction), tally, rtol=1e-4)


def test_predict_and_denoise_call_every_layer(tallies):
    model = tallies(3)
    condition = np.zeros((5, 1), "float32")
    for sampler in (EulerSampler(), EulerSampler(4, "equal_mass")):
        model.sampler = sampler
        levels = noise_levels(
            model.partition, len(sampler.plan(model.partition))
        )
        levels = np.concatenate(
            [v.levels for v in sampler.plan(model.partition)]
        )
        tally = tally_of(levels, wanted_blocks(levels, 3), 3)
        for batch in (5, 2):
            prediction = model.predict(condition, batch_size=batch, verbose=0)
            np.testing.assert_allclose(prediction, [tally] * 5, rtol=1e-4)
    # One batch with levels of all blocks, in no order.
    levels = model.partition.boundaries[[1, 3, 0, 2, 1]]
    noisy = np.zeros((5, NUM_LAYERS))
    for dtype in ("float64", "float32"):
        answer = model.denoise(noisy, levels.astype(dtype), condition)
        ran = answer.reshape(5, 3, 4).min(-1) > 0
        assert ran.argmax(-1).tolist() == [2, 0, 2, 1, 2]
        assert ran.sum() == 5


def test_reference_grids_and_routes(golden):
    reference = golden("noise")
    noise = noise_of(reference["config"])
    tried = 0
    for key in reference:
        found = re.fullmatch(r"route_halfopen_B(\d+)_n(\d+)", key)
        if found:
            blocks, steps = int(found[1]), int(found[2])
            partition = Partition(noise, blocks, blocks)
            levels = noise_levels(partition, steps, "equal_mass")
            for dtype in ("float64", "float32"):
                route = partition.block_of(levels.astype(dtype))
                np.testing.assert_array_equal(route, reference[key])
        grid = re.fullmatch(r"grid_(equimass|karras)_n(\d+)", key)
        if grid:
            name = grid[1].replace("equimass", "equal_mass")
            partition = Partition(noise, 3, 3)
            rho = reference["config"]["rho"]
            levels = noise_levels(partition, int(grid[2]), name, rho)
            np.testing.assert_allclose(levels, reference[key], rtol=1e-5)
        tried += bool(found) + bool(grid)
    assert tried >= 8


def test_upper_edges_split_each_block_evenly():
    partition = Partition(LogNormalNoise(), 6, 3)
    np.testing.assert_allclose(
        noise_levels(partition, 3), partition.boundaries[:0:-1], rtol=1e-9
    )
    above = share_above(noise_levels(partition, 7), partition.noise)
    # Three, two and two steps; the first blocks take what is left over.
    wanted = np.array([0, 1 / 3, 2 / 3, 1, 1.5, 2, 2.5]) / 3
    np.testing.assert_allclose(above, wanted, atol=1e-9)


class Mixture(keras.layers.Layer):
    """The network F whose denoiser is exact for a mixture of Gaussians."""

    def __init__(self, means, weights, component_std):
        super().__init__()
        self.means = np.float32(means)  # (K, d)
        self.log_weights = np.log(np.float32(weights))
        self.variance = float(component_std) ** 2

    def call(self, x, noise):
        sigma = ops.exp(4.0 * ops.expand_dims(noise, -1))  # (B, 1)
        total = sigma**2 + 0.25
        z = x * ops.sqrt(total)
        spread = self.variance + sigma**2
        means = ops.convert_to_tensor(self.means)
        apart = ops.expand_dims(z, 1) - means  # (B, K, d)
        score = ops.sum(apart**2, -1) / (-2 * spread)
        score = score + ops.convert_to_tensor(self.log_weights)
        mean = ops.matmul(ops.softmax(score, -1), means)
        denoised = (self.variance * z + sigma**2 * mean) / spread
        return (denoised - 0.25 / total * z) * ops.sqrt(total) / (0.5 * sigma)


class Stem(keras.layers.Layer):
    """Hands the scaled noisy signal on."""

    def call(self, x, condition):
        return x


class Mixtures(Tallies):
    """Three blocks, each the exact denoiser of the same mixture."""

    def __init__(self, config, means, weights, component_std):
        self.mixture = means, weights, component_std
        self.make_noise = lambda: noise_of(config)
        super().__init__(num_layers=3, num_blocks=3)
        self.build()

    def make_target(self):
        return Vector(np.shape(self.mixture[0])[-1])

    def make_stem(self):
        return Stem()

    def make_layer(self, index):
        return Mixture(*self.mixture)


def test_reference_mixture(golden):
    reference = golden("edm")
    parts = [reference[k] for k in ("means", "weights", "component_std")]
    model = Mixtures(reference["config"], *parts)
    denoised = model.denoise(
        reference["denoiser/z"],
        reference["denoiser/sigma"],
        np.zeros((len(reference["denoiser/z"]), 1), "float32"),
    )
    np.testing.assert_allclose(
        denoised, reference["denoiser/D"], rtol=EDM, atol=EDM
    )
    start = ops.convert_to_tensor(reference["z0"], dtype="float32")
    condition = ops.zeros((len(reference["z0"]), 1))
    for steps in reference["config"]["ns"]:
        for grid in ("equal_mass", "karras"):
            sampler = EulerSampler(steps, grid)
            path = sampler.trajectory(model, condition, start)
            prefix = f"{grid.replace('equal_mass', 'equimass')}_n{steps}"
            levels = [step["level"] for step in path]
            np.testing.assert_allclose(
                levels, reference[f"{prefix}/sigmas"], rtol=1e-5
            )
            for name, key in (("noisy", "z"), ("denoised", "D")):
                ours = np.stack([numpy(step[name]) for step in path])
                wanted = reference[f"{prefix}/euler/{key}"]
                np.testing.assert_allclose(ours, wanted, rtol=EDM, atol=EDM)
            final = numpy(sampler(model, condition, start))
            wanted = reference[f"{prefix}/euler/final"]
            np.testing.assert_allclose(final, wanted, rtol=EDM, atol=EDM)


@pytest.mark.parametrize("grid", ["upper_edges", "equal_mass", "karras"])
def test_a_perfect_denoiser_lands_on_the_clean_signal(grid):
    clean = np.float32([[0.3, -0.7, 0.1]])
    config = {"p_mean": -1.2, "p_std": 1.2, "sigma_min": 0.002, "sigma_max": 80}
    # A mixture of one component, without width (keras warns of a softmax of 1).
    model = Mixtures(config, np.tile(clean, (2, 1)), [0.5, 0.5], 0.0)
    start = 80.0 * np.random.default_rng(0).normal(size=(4, 3))
    start = np.float32(clean + start)
    path = EulerSampler(9, grid).trajectory(
        model, ops.zeros((4, 1)), ops.convert_to_tensor(start)
    )
    # At every level the straight line from the start, y + sigma eps.
    for step in path:
        line = clean + step["level"] / 80.0 * (start - clean)
        np.testing.assert_allclose(numpy(step["noisy"]), line, atol=1e-4)
    last = path[-1]
    landed = euler_step(last["noisy"], last["denoised"], last["level"], 0.0)
    np.testing.assert_allclose(numpy(landed), [*clean] * 4, atol=EDM)


def test_start_and_hand_over(tallies):
    model = tallies(3)
    condition = ops.zeros((2, 1))
    assert not numpy(EulerSampler().begin(model, 2)).any()
    noisy = [
        numpy(EulerSampler(start="noise", seed=seed).begin(model, 2))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1.0
    # What a block is handed in training is what it meets in inference.
    model.sampler = EulerSampler()
    path = model.sampler.trajectory(model, condition)
    for block in range(3):
        handed = numpy(hand_over(model, block, condition))
        np.testing.assert_allclose(
            handed, numpy(path[block]["noisy"]), atol=1e-6
        )
        assert handed.any() == (block > 0)


def test_config_makes_the_same_sampler():
    first = EulerSampler(7, "karras", "noise", guidance_scale=2.0, seed=3)
    again = EulerSampler(**first.get_config())
    assert vars(again) == vars(first)


@pytest.mark.parametrize(
    "wrong, wanted, came, cure",
    [
        ({"grid": "cosine"}, "`grid`", "'cosine'", "upper_edges"),
        ({"start": "ones"}, "`start`", "'ones'", "Use"),
        ({"num_steps": 2}, "every block", "num_steps=2 for 3", "at least 3"),
        ({"num_steps": -1}, "at least 1", "num_steps=-1", "Use 3"),
        pytest.param(
            *({"num_steps": 0}, "at least 1", "num_steps=0", "Use 3"),
            marks=pytest.mark.xfail(
                reason="0 is taken for the default", strict=True
            ),
        ),
    ],
)
def test_refusals(tallies, wrong, wanted, came, cure):
    # When the sampler is set, not when it runs.
    match = rf"{wanted}.*Received: .*{came}.*\. .*{cure}.*\."
    with pytest.raises(ValueError, match=match):
        tallies(3).sampler = EulerSampler(**wrong)
