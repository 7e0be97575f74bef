"""Truncated log-normal noise equals scipy's, and the reference's figures."""

import itertools
import re
from statistics import NormalDist

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from helpers.toys import log_sigma, noise_of
from keras_dblocks.diffusion.log_normal import LogNormalNoise, normal_score
from keras_dblocks.streams import Stream, rows_of

SETTINGS = [
    {},
    {"p_mean": -0.4, "p_std": 1.0, "sigma_min": 0.01, "sigma_max": 20.0},
    {"p_mean": 1.0, "p_std": 2.0, "sigma_min": 0.5, "sigma_max": 2.0},
]


def quantile_tensor(noise, probability):
    probability = ops.convert_to_tensor(probability, dtype="float32")
    level = noise.quantile_tensor(probability)
    assert keras.backend.standardize_dtype(level.dtype) == "float32"
    return ops.convert_to_numpy(level).astype("float64")


@pytest.fixture(params=SETTINGS, ids=str)
def noise(request):
    return LogNormalNoise(**request.param)


@pytest.mark.quick
def test_reference_ranges_and_quantiles(golden):
    reference = golden("noise")
    noise = noise_of(reference["config"])
    tried = 0
    for key in reference:
        found = re.fullmatch(r"quantiles_(B\d+)_gamma(\w+)", key)
        if not found:
            continue
        tried += 1
        overlap = float(found[2].replace("p", "."))
        edges = reference[f"boundaries_{found[1]}"]
        wanted = reference[key.replace("quantiles", "range")]
        for k, (low, high) in enumerate(itertools.pairwise(edges)):
            widened = noise.widen(low, high, overlap)
            np.testing.assert_allclose(widened, wanted[k], rtol=1e-9)
            low, high = noise.cdf(widened)
            uniform = np.linspace(low, high, len(reference[key][k]))
            levels = noise.quantile(uniform)
            np.testing.assert_allclose(levels, reference[key][k], rtol=1e-9)
            levels = quantile_tensor(noise, uniform[1:-1])
            wanted_levels = reference[key][k][1:-1]
            np.testing.assert_allclose(levels, wanted_levels, rtol=3e-5)
    assert tried >= 4


@pytest.mark.once
def test_cdf_and_quantile_equal_scipy(noise):
    probability = np.linspace(0.0, 1.0, 1001)
    wanted = log_sigma(noise)
    levels = noise.quantile(probability)
    np.testing.assert_allclose(
        levels[:-1], np.exp(wanted.ppf(probability[:-1])), rtol=1e-8
    )
    np.testing.assert_allclose(
        noise.cdf(levels), wanted.cdf(np.log(levels)), atol=1e-10
    )
    np.testing.assert_allclose(noise.cdf(levels), probability, atol=1e-10)
    ends = [noise.minimum, noise.maximum]
    np.testing.assert_allclose(levels[[0, -1]], ends, rtol=1e-8)
    assert ends == [noise.sigma_min, noise.sigma_max]
    assert (np.diff(levels) > 0).all()


def test_no_level_lies_outside_the_range(noise):
    far = np.array([noise.minimum / 9, noise.maximum * 9])
    assert noise.cdf(far).tolist() == [0.0, 1.0]
    for ends in (noise.quantile([0.0, 1.0]), quantile_tensor(noise, [0, 1])):
        assert np.isfinite(ends).all()
        low, high = np.float32([noise.minimum, noise.maximum])
        assert low <= np.float32(ends[0]) < np.float32(ends[1]) <= high


def test_probability_of_the_maximum_rounds_to_one():
    # 80 is 9.3 standard deviations away.
    noise = LogNormalNoise(p_std=0.6)
    assert noise.quantile(1.0) == noise.maximum
    assert quantile_tensor(noise, [1.0]) == np.float32(noise.maximum)
    test_cdf_and_quantile_equal_scipy(noise)


def test_quantile_of_tensors_is_as_good_as_float32(noise):
    near = np.logspace(-7, -1, 60)
    probability = np.float32([*near, *np.linspace(0.1, 0.9, 500), *(1 - near)])
    exact = probability.astype("float64")
    levels = quantile_tensor(noise, probability)
    # As a probability: a few roundings of numbers near 1, at both ends too.
    returned = log_sigma(noise).cdf(np.log(levels))
    np.testing.assert_allclose(returned, exact, atol=4e-7)
    # As a level: close where there is mass, usable at the very ends.
    error = np.abs(levels / noise.quantile(exact) - 1)
    assert error[(exact > 1e-3) & (exact < 1 - 1e-3)].max() < 1e-4
    assert error[(exact > 1e-6) & (exact < 1 - 1e-6)].max() < 2e-2


TAILS = [
    {},
    {"sigma_min": 2e-5, "sigma_max": 1e4},
    {"p_mean": 0.5, "p_std": 2.5, "sigma_min": 1e-4, "sigma_max": 1e4},
    {"p_mean": -0.4, "p_std": 1.0, "sigma_min": 0.01, "sigma_max": 20.0},
]


@pytest.mark.parametrize("settings", TAILS, ids=str)
def test_tails_of_the_quantile_in_float32(settings):
    """Down to 2**-24, the last number that float32 can tell from 0 and 1."""
    noise = LogNormalNoise(**settings)
    tail = 2.0 ** -np.arange(2.0, 24.5, 0.5)
    for exact in (tail, 1.0 - 2.0 ** -np.arange(2, 25)):
        probability = np.float32(exact)
        exact = probability.astype("float64")
        levels = quantile_tensor(noise, probability)
        wanted = log_sigma(noise)
        # scipy's `ppf` loses digits of the upper tail, its `isf` does not.
        half = exact < 0.5
        level = np.where(half, wanted.ppf(exact), wanted.isf(1.0 - exact))
        # The error of ln sigma: 1e-6 of it, and what float32 rounds.
        np.testing.assert_allclose(np.log(levels), level, rtol=2e-5, atol=2e-5)
        assert (np.diff(levels) * np.sign(np.diff(exact)) > 0).all()
        np.testing.assert_allclose(noise.quantile(exact), levels, rtol=2e-4)


def test_normal_score_equals_the_standard_library_s():
    tails = 2.0 ** -np.arange(1.0, 100.0, 0.25)
    wanted = [NormalDist().inv_cdf(tail) for tail in np.float32(tails)]
    low = ops.convert_to_tensor(tails, dtype="float32")
    high = ops.convert_to_tensor(1.0 - tails, dtype="float32")
    for sign, score in (
        (1.0, normal_score(low, high)),
        (-1.0, normal_score(high, low)),
    ):
        ours = sign * ops.convert_to_numpy(score).astype("float64")
        np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=2e-7)


@pytest.mark.once
@pytest.mark.parametrize("settings", TAILS[:3], ids=str)
def test_cdf_and_quantile_invert_each_other_up_to_the_maximum(settings):
    noise = LogNormalNoise(**settings)
    levels = np.geomspace(noise.minimum, noise.maximum, 400)[1:-1]
    # What a probability near 1 cannot tell apart lies between its neighbours.
    share = noise.cdf(levels)
    below = noise.quantile(np.nextafter(share, 0.0))
    above = noise.quantile(np.nextafter(share, 1.0))
    assert (below <= levels * (1 + 1e-9)).all()
    assert (levels <= above * (1 + 1e-9)).all()
    low = share < 0.5
    back = noise.quantile(share)
    np.testing.assert_allclose(back[low], levels[low], rtol=1e-9)
    certain = share < 1 - 1e-6
    np.testing.assert_allclose(back[certain], levels[certain], rtol=1e-8)
    probability = np.r_[2.0 ** -np.arange(1, 50), 1 - 2.0 ** -np.arange(2, 50)]
    there = noise.cdf(noise.quantile(probability))
    np.testing.assert_allclose(there, probability, rtol=1e-9, atol=1e-15)


@pytest.mark.once
def test_widened_ranges_are_clipped():
    noise = LogNormalNoise(sigma_min=0.01, sigma_max=10.0)
    assert noise.widen(1.0, 4.0, 0.5) == (0.5, 8.0)
    assert noise.widen(1.0, 4.0, 0.0) == (1.0, 4.0)
    assert noise.widen(1.0, 4.0, 1.0) == (0.25, 10.0)
    assert noise.widen(0.01, 4.0, 0.1)[0] == 0.01
    assert noise.widen(0.01, 10.0, 0.1) == (0.01, 10.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_noise_has_the_standard_deviation_of_its_level(dtype):
    noise = LogNormalNoise()
    # Below what bfloat16 can add to 1, in the middle, and the maximum.
    level = np.float32([1e-3, 0.5, 80.0])
    clean = ops.ones((3, 64, 64, 3), dtype=dtype)
    stream = Stream(3, "noise")
    noisy = noise.corrupt(
        clean, ops.convert_to_tensor(level), stream, rows_of(3), step=0
    )
    assert keras.backend.standardize_dtype(noisy.dtype) == "float32"
    eps = (ops.convert_to_numpy(noisy) - 1.0) / level[:, None, None, None]
    eps = eps.reshape(3, -1)
    np.testing.assert_allclose(eps.mean(-1), 0.0, atol=5 / np.sqrt(64 * 64 * 3))
    np.testing.assert_allclose(eps.std(-1), 1.0, atol=0.03)
    assert stats.kstest(eps[1], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(eps)[np.triu_indices(3, 1)]).max() < 0.05


def test_noise_follows_its_stream_step_and_row():
    noise = LogNormalNoise()
    clean = ops.zeros((2, 5))
    level = ops.ones((2,))

    def draw(seed=4, step=0, first_row=0):
        rows = rows_of(2) + first_row
        stream = Stream(seed, "noise")
        noisy = noise.corrupt(clean, level, stream, rows, step)
        return ops.convert_to_numpy(noisy)

    first = draw()
    np.testing.assert_array_equal(draw(), first)
    for other in (draw(seed=5), draw(step=1), draw(first_row=2)):
        assert (other != first).all()
    np.testing.assert_array_equal(draw(first_row=1)[0], first[1])


def test_start():
    noise = LogNormalNoise(sigma_max=3.0)
    zero = noise.start(rows_of(2), (4,))
    np.testing.assert_array_equal(ops.convert_to_numpy(zero), np.zeros((2, 4)))
    start = noise.start(rows_of(100), (100,), Stream(1, "start"))
    start = ops.convert_to_numpy(start)
    assert start.dtype == "float32"
    # The reference code starts at sqrt(1 + sigma_max^2):
    # docs/method.md#start-of-the-chain
    np.testing.assert_allclose(start.std(), np.sqrt(10.0), rtol=0.03)
    assert abs(start.mean()) < 5 * np.sqrt(10.0) / 100


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong, came",
    [
        ({"sigma_min": 0.0}, "sigma_min=0.0, sigma_max=80.0"),
        ({"sigma_min": -1.0}, "sigma_min=-1.0"),
        ({"sigma_min": 80.0}, "sigma_min=80.0"),
        ({"sigma_max": 0.001}, "sigma_max=0.001"),
        ({"sigma_min": float("nan")}, "sigma_min=nan"),
        ({"p_std": 0.0}, "p_std=0.0"),
        ({"p_std": -1.2}, "p_std=-1.2"),
        ({"p_std": float("nan")}, "p_std=nan"),
        ({"p_mean": float("nan")}, "p_mean=nan"),
        ({"p_mean": float("inf")}, "p_mean=inf"),
    ],
)
def test_refusals(wrong, came):
    # What was wanted, what came, what to do.
    match = rf"`{next(iter(wrong))[:6]}.*Received: .*{came}.*\. [A-Z].*\."
    with pytest.raises(ValueError, match=match):
        LogNormalNoise(**wrong)
