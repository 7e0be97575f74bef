"""Sampling visits every block, and solves the equation it claims to solve."""

import json

import numpy as np
import pytest
from keras import ops

from helpers.toys import CHAINS, Toy, noise_of, wanted_route
from keras_dblocks import samplers
from keras_dblocks.diffusion.log_normal import LogNormalNoise
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.samplers import (
    EulerSampler,
    HeunSampler,
    StochasticSampler,
)
from keras_dblocks.streams import rows_of
from keras_dblocks.training.trainable_block import run_hand_over

# Euler's final state in float32: tests/golden/README.md#edmnpz
EDM = 1e-5
NUM_LAYERS = 12


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def start_of(model, sampler, count):
    shape = model.target.signal_shape
    return loop.start(sampler, model.noise, rows_of(count), shape)


def chain(model, sampler, condition, start=None):
    """Arguments of `loop.sample` and `loop.trajectory`."""
    count = condition.shape[0]
    noisy = start_of(model, sampler, count) if start is None else start
    parts = model.blocks, model.partition, sampler
    return *parts, noisy, condition, rows_of(count)


@pytest.fixture(scope="module")
def tallies():
    """Models by number of blocks; layer l adds 1 to component l.

    `model.calls` counts how often Python called each layer.
    """
    made = {}

    def model(num_blocks):
        if num_blocks in made:
            return made[num_blocks]
        calls = np.zeros(NUM_LAYERS, int)

        def add_one(index, x, noise):
            calls[index] += 1
            return x + ops.one_hot(index, NUM_LAYERS)

        sizes = {"num_layers": NUM_LAYERS, "num_blocks": num_blocks}
        model = made[num_blocks] = Toy(add_one, NUM_LAYERS, **sizes)
        model.build()
        model.calls = calls
        return model

    return model


def wanted_tally(levels, num_blocks):
    """What `tallies` predict after a start from zero, in float64."""
    route = wanted_route(levels, num_blocks)
    block_of_layer = np.arange(NUM_LAYERS) // (NUM_LAYERS // num_blocks)
    noisy = np.zeros(NUM_LAYERS)
    following = [*levels[1:], 0.0]
    for level, lower, block in zip(levels, following, route, strict=True):
        total = level**2 + 0.25
        network = noisy / np.sqrt(total) + (block_of_layer == block)
        denoised = 0.25 / total * noisy + 0.5 * level / total**0.5 * network
        noisy = noisy + (level - lower) * (denoised - noisy) / level
    return denoised


@pytest.mark.heavy
@pytest.mark.parametrize("blocks, steps, grid", CHAINS)
def test_every_layer_is_called(tallies, blocks, steps, grid):
    model, condition = tallies(blocks), ops.zeros((2, 1))
    sampler = EulerSampler(steps, grid)
    model.calls[:] = 0
    path = model.steps_of(condition, sampler)
    levels = [step["level"] for step in path]
    calls = np.bincount(wanted_route(levels, blocks)).repeat(12 // blocks)
    np.testing.assert_array_equal(model.calls, calls)
    assert len(calls) == NUM_LAYERS and calls.min() > 0
    # A compiled loop calls Python once: there the answer tells who ran.
    tally = wanted_tally(levels, blocks)
    assert tally.min() > 1e-4
    compiled = loop.sample(*chain(model, sampler, condition))
    for prediction in (path[-1]["prediction"], compiled):
        np.testing.assert_allclose(numpy(prediction), [tally] * 2, rtol=1e-4)


def test_predict_calls_every_layer(tallies):
    model, condition = tallies(3), np.zeros((5, 1), "float32")
    for sampler in (EulerSampler(), EulerSampler(4, "equal_mass")):
        model.sampler = sampler
        visits = samplers.plan(sampler, model.partition)
        tally = wanted_tally([s for v in visits for s in v.calls["level"]], 3)
        prediction = model.predict(condition, batch_size=2, verbose=0)
        np.testing.assert_allclose(prediction, [tally] * 5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denoise_routes_each_example_by_its_level(tallies, dtype):
    model = tallies(3)
    levels = model.partition.boundaries[[1, 3, 0, 2, 1]].astype(dtype)
    noisy = np.zeros((5, NUM_LAYERS), dtype)
    answer = model.denoise(noisy, levels, np.zeros((5, 1), "float32"))
    ran = answer.reshape(5, 3, 4) > 0
    assert (ran.all(-1) == ran.any(-1)).all()
    assert ran.any(-1).sum() == 5
    assert ran.any(-1).argmax(-1).tolist() == [2, 0, 2, 1, 2]
    assert answer.dtype == "float32"


def exact_model(noise, means, weights, component_std):
    """Three blocks, each the exact denoiser of a mixture of Gaussians."""
    means = np.float32(means)  # (K, d)
    log_weights = np.log(np.float32(weights))
    variance = float(component_std) ** 2

    def network(index, x, c_noise):
        # tests/golden/README.md#edmnpz gives D; the network's
        # output F follows from D = c_skip z + c_out F.
        sigma = ops.exp(4.0 * c_noise)  # (B, 1)
        total = sigma**2 + 0.25
        z = x * ops.sqrt(total)
        spread = variance + sigma**2
        mu = ops.convert_to_tensor(means)
        apart = ops.sum((ops.expand_dims(z, 1) - mu) ** 2, -1)  # (B, K)
        score = ops.convert_to_tensor(log_weights) - apart / (2 * spread)
        mean = ops.matmul(ops.softmax(score, -1), mu)
        denoised = (variance * z + sigma**2 * mean) / spread
        return (denoised - 0.25 / total * z) * ops.sqrt(total) / (0.5 * sigma)

    sizes = {"num_layers": 3, "num_blocks": 3}
    model = Toy(network, means.shape[-1], noise, **sizes)
    model.build()
    return model


# EDM's grid leaps over the middle blocks when it has few steps.
leaps = pytest.mark.filterwarnings("ignore:.* steps of .*never call")


def test_a_block_that_is_never_called_is_reported(tallies):
    with pytest.warns(
        UserWarning, match=r"^3 steps of Euler.*karras.* blocks \[1\]"
    ):
        tallies(3).sampler = EulerSampler(3, "karras")
    tallies(3).sampler = EulerSampler()


@pytest.mark.eager
@pytest.mark.quick
@leaps
def test_reference_mixture(golden):
    reference = golden("edm")
    parts = [reference[k] for k in ("means", "weights", "component_std")]
    model = exact_model(noise_of(reference["config"]), *parts)
    sigma = reference["denoiser/sigma"]
    zeros = np.zeros((len(sigma), 1), "float32")
    noisy = reference["denoiser/z"].astype("float32")
    denoised = model.denoise(noisy, sigma, zeros)
    np.testing.assert_allclose(denoised, reference["denoiser/D"], EDM, EDM)
    start = ops.convert_to_tensor(reference["z0"], dtype="float32")
    condition = ops.zeros((start.shape[0], 1))
    for steps in reference["config"]["ns"]:
        for grid, name in (("equal_mass", "equimass"), ("karras", "karras")):
            sampler = EulerSampler(steps, grid)
            arguments = chain(model, sampler, condition, start)
            path = loop.trajectory(*arguments)
            prefix = f"{name}_n{steps}"
            levels = [step["level"] for step in path]
            wanted = reference[f"{prefix}/sigmas"]
            np.testing.assert_allclose(levels, wanted, rtol=1e-5)
            for ours, key in (("noisy", "z"), ("denoised", "D")):
                ours = np.stack([numpy(step[ours]) for step in path])
                wanted = reference[f"{prefix}/euler/{key}"]
                np.testing.assert_allclose(ours, wanted, EDM, EDM)
            final = numpy(loop.sample(*arguments))
            wanted = reference[f"{prefix}/euler/final"]
            np.testing.assert_allclose(final, wanted, EDM, EDM)
            check_heun(reference, f"{prefix}/heun", steps, grid, model, start)


def check_heun(reference, prefix, steps, grid, model, start):
    condition = ops.zeros((start.shape[0], 1))
    sampler = HeunSampler(steps, grid)
    path = loop.trajectory(*chain(model, sampler, condition, start))
    levels = [step["level"] for step in path]
    wanted = reference[f"{prefix}/nfe_sigmas"]
    np.testing.assert_allclose(levels, wanted, rtol=1e-5)
    first = [step for step in path if not step["corrects"]]
    # tests/golden/README.md#edmnpz
    tolerance = {"karras": 1e-4, "equal_mass": 2e-3}[grid]
    for ours, key in (("noisy", "z"), ("denoised", "D")):
        ours = np.stack([numpy(step[ours]) for step in first])
        wanted = reference[f"{prefix}/{key}"]
        np.testing.assert_allclose(ours, wanted, tolerance, tolerance)
    wanted = reference[f"{prefix}/final"]
    for heun in (sampler, StochasticSampler(steps, grid, churn=0.0)):
        arguments = chain(model, heun, condition, start)
        final = numpy(loop.sample(*arguments))
        np.testing.assert_allclose(final, wanted, tolerance, tolerance)


@pytest.mark.heavy
def test_churn_keeps_the_distribution():
    # One Gaussian: whatever noise is added, what comes out has its deviation.
    model = exact_model(LogNormalNoise(), np.zeros((2, 1)), [0.5, 0.5], 0.5)
    count = 4000
    condition = ops.zeros((count, 1))
    deviations = {}
    for churn in (0.0, 30.0):
        sampler = StochasticSampler(80, churn=churn, noise_scale=1.0, seed=5)
        arguments = chain(model, sampler, condition)
        ours = [numpy(loop.sample(*arguments)) for _ in range(2)]
        np.testing.assert_array_equal(*ours)
        start = numpy(start_of(model, sampler, count))
        # Without churn the path is a function of the start alone.
        related = np.corrcoef(start[:, 0], ours[0][:, 0])[0, 1]
        assert related > 0.99 if churn == 0 else abs(related) < 0.1
        deviations[churn] = ours[0].std()
    # 4,000 draws leave 1.1 % to chance in each, 80 steps 2 % of bias.
    np.testing.assert_allclose(deviations[30.0], deviations[0.0], rtol=0.06)
    np.testing.assert_allclose(deviations[30.0], 0.5, rtol=0.06)
    levels = [
        level
        for visit in samplers.plan(StochasticSampler(20), model.partition)
        for level in visit.calls["level"]
    ]
    assert max(levels) == 80.0 and (np.diff(levels) > 0).any()


@leaps
@pytest.mark.parametrize("grid", ["upper_edges", "equal_mass", "karras"])
def test_a_perfect_denoiser_lands_on_the_clean_signal(grid):
    clean = np.float32([0.3, -0.7, 0.1])
    # Twice the same point: keras warns of a softmax over one.
    model = exact_model(LogNormalNoise(), [clean, clean], [0.5, 0.5], 0.0)
    eps = np.random.default_rng(0).normal(size=(4, 3))
    start = ops.convert_to_tensor(clean + 80.0 * eps, dtype="float32")
    condition = ops.zeros((4, 1))
    euler = EulerSampler(9, grid)
    path = loop.trajectory(*chain(model, euler, condition, start))
    for step in path:  # at every level on the straight line y + sigma eps
        line = clean + step["level"] * eps
        np.testing.assert_allclose(numpy(step["noisy"]), line, EDM, EDM)
    for sampler in (euler, HeunSampler(9, grid)):
        landed = loop.sample(*chain(model, sampler, condition, start))
        np.testing.assert_allclose(numpy(landed), [clean] * 4, atol=EDM)


def hand_over(model, index, condition):
    """What block `index` is handed in training, for a whole batch."""
    data = (condition, ops.zeros((condition.shape[0], NUM_LAYERS)), None)
    first = model.blocks[0].hand_over_constants()
    return run_hand_over(
        model.blocks,
        index,
        lambda: model.blocks[index].begin_hand_over(data, 1.0, first),
        lambda block, *state: block.pass_on(
            *state, block.hand_over_constants()
        ),
    )


def test_start_and_hand_over(tallies):
    model, condition = tallies(3), ops.zeros((2, 1))
    assert not numpy(start_of(model, EulerSampler(), 2)).any()
    chosen = [EulerSampler(start="noise", seed=seed) for seed in (1, 1, 2)]
    noisy = [numpy(start_of(model, sampler, 2)) for sampler in chosen]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1.0
    # What a block is handed in training is what it meets in inference.
    model.sampler = EulerSampler()
    path = model.steps_of(condition)
    for block in range(3):
        handed, level = map(numpy, hand_over(model, block, condition))
        np.testing.assert_allclose(level, model.blocks[block].upper_level)
        wanted = numpy(path[block]["noisy"])
        np.testing.assert_allclose(handed, wanted, atol=1e-6)
        assert handed.any() == (block > 0)


def test_config_makes_the_same_sampler():
    first = EulerSampler(7, "karras", "noise", guidance_scale=2.0, seed=3)
    assert EulerSampler.from_config(first.get_config()) == first
    assert samplers.get(samplers.serialize(first)) == first
    assert samplers.get(first) is first
    for name in ("heun", "stochastic"):
        one = samplers.get(name, num_steps=5, rho=3.0)
        # As from a file: tuples have become lists.
        config = json.loads(json.dumps(samplers.serialize(one)))
        again = samplers.get(config)
        assert again == one and type(again) is type(one)
        assert hash(again) == hash(one)
        assert (again.num_steps, again.rho) == (5, 3.0)


@pytest.mark.parametrize(
    "wrong, wanted, came, cure",
    [
        ({"grid": "cosine"}, "`grid`", "'cosine'", "upper_edges"),
        ({"start": "ones"}, "`start`", "'ones'", "Use"),
        ({"num_steps": 2}, "every block", "num_steps=2 for 3", "at least 3"),
        ({"num_steps": -1}, "at least 1", "num_steps=-1", "Leave it out"),
        ({"num_steps": 0}, "1", "steps=0", "Leave it out"),
        ({"num_steps": 3.5}, "whole number", "num_steps=3.5", "Leave it"),
        ({"num_steps": True}, "whole number", "num_steps=True", "Leave it"),
        ({"seed": -1}, "at least 0", "seed=-1", "Leave it out"),
        ({"seed": None}, "whole number", "seed=None", "Leave it out"),
    ],
)
def test_refusals(tallies, wrong, wanted, came, cure):
    # When the sampler is set, not when it runs.
    match = rf"{wanted}.*Received: .*{came}.*\. .*{cure}.*\."
    with pytest.raises(ValueError, match=match):
        tallies(3).sampler = EulerSampler(**wrong)
