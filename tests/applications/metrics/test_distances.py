"""Distances of features: golden figures, closed forms, plain second ones."""

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from keras_dblocks.applications.metrics import (
    distances,
    frechet_distance,
    kernel_distance,
    precision_recall,
)

pytestmark = pytest.mark.once

METRICS = [frechet_distance, kernel_distance, precision_recall]
PROGRAMS = [
    "edm_scipy_sqrtm",
    "torchmetrics",
    "torch_fidelity",
    "symmetric_eigh",
]


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# Frechet distance.


@pytest.mark.quick
@pytest.mark.parametrize("program", PROGRAMS)
def test_frechet_agrees_with_published_programs(program, golden):
    figures = golden("metrics")
    x, y = figures["fd/x"], figures["fd/y"]
    wanted = figures[f"fd/{program}"]
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-10)

    rows = int(figures["fd_singular/n"])
    assert rows < x.shape[1]
    wanted = figures[f"fd_singular/{program}"]
    ours = frechet_distance(x[:rows], y[:rows])
    assert ours == pytest.approx(wanted, rel=0, abs=1e-6)


def test_frechet_of_equal_sets_is_zero(golden):
    x = golden("metrics")["fd/x"]
    for rows in (len(x), 8):
        shuffled = x[:rows][::-1]
        assert 0 <= frechet_distance(x[:rows], shuffled) < 1e-11


@pytest.mark.parametrize("rows", [2, 5, 300])  # rank-deficient: 2 and 5
def test_frechet_of_a_moved_and_scaled_set(rows, generator):
    x = generator.normal(size=(rows, 7)) @ generator.normal(size=(7, 7))
    shift = np.arange(7.0)
    variance = x.var(0, ddof=1).sum()
    moved = np.square(shift).sum()
    assert frechet_distance(x, x + shift) == pytest.approx(moved, rel=1e-10)

    centred = x - x.mean(0)
    scaled = frechet_distance(centred, 3.0 * centred + shift)
    assert scaled == pytest.approx(moved + 4.0 * variance, rel=1e-10)


def test_frechet_of_independent_features_adds_up(generator):
    # Whitened: the covariances are diagonal, the roots those of the variances.
    white = generator.normal(size=(50, 3))
    white -= white.mean(0)
    white = np.linalg.qr(white)[0] * np.sqrt(49)
    x, y = white * [1.0, 2.0, 0.0], white[::-1] * [4.0, 1.0, 3.0] + 1.0
    wanted = 3 + (1 - 4) ** 2 + (2 - 1) ** 2 + 3**2
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-10)

    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    turned = frechet_distance(x @ turn, y @ turn)
    assert turned == pytest.approx(wanted, rel=1e-10)


def test_frechet_of_sets_of_two_sizes(generator):
    x = generator.normal(size=(40, 5)) @ generator.normal(size=(5, 5))
    y = generator.normal(size=(90, 5)) + 0.3
    of_x, of_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(of_x @ of_y).real
    wanted = np.square(x.mean(0) - y.mean(0)).sum()
    wanted += np.trace(of_x + of_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(wanted, rel=1e-9)
    single = frechet_distance(x.astype("float32"), y.astype("float32"))
    assert single == pytest.approx(wanted, rel=1e-5)


# Kernel distance.


def plain_kernel_distance(x, y):
    def kernel(a, b):
        return (sum(i * j for i, j in zip(a, b, strict=True)) / width + 1) ** 3

    width = len(x[0])
    pairs = itertools.permutations
    of_x = np.mean([kernel(a, b) for a, b in pairs(x, 2)])
    of_y = np.mean([kernel(a, b) for a, b in pairs(y, 2)])
    return of_x + of_y - 2 * np.mean([kernel(a, b) for a in x for b in y])


@pytest.mark.parametrize("max_pairs", [1, 30, 2**22])
def test_kernel_distance_is_a_double_loop(max_pairs, generator, monkeypatch):
    monkeypatch.setattr(distances, "MAX_PAIRS", max_pairs)
    x, y = generator.normal(size=(9, 4)), generator.normal(size=(13, 4)) + 0.5
    wanted = plain_kernel_distance(x, y)
    assert kernel_distance(x, y) == pytest.approx(wanted, rel=1e-12)
    assert kernel_distance([[0.0], [0.0]], [[1.0], [1.0]]) == 7


def test_kernel_distance_of_one_distribution_is_around_zero(generator):
    # 20 rows: with a row's pair with itself the mean would be near 0.4.
    draws = generator.normal(size=(400, 2, 20, 6))
    figures = np.array([kernel_distance(x, y) for x, y in draws])
    error = figures.std() / np.sqrt(len(figures))
    assert error < 0.02
    assert abs(figures.mean()) < 4 * error
    assert (figures < 0).mean() > 0.3 and (figures > 0).mean() > 0.3


def test_kernel_distance_in_subsets(generator):
    x, y = generator.normal(size=(60, 3)), generator.normal(size=(50, 3)) + 1
    whole = kernel_distance(x, y)
    figures = [kernel_distance(x, y, 20, seed=seed) for seed in range(4)]
    # Each is unbiased for the whole; 100 subsets leave a few per cent.
    np.testing.assert_allclose(figures, whole, rtol=0.15)
    assert len(set(figures)) == 4
    assert kernel_distance(x, y, 20, seed=0) == figures[0]
    # Without replacement: a subset of all rows is the set.
    same = kernel_distance(x[:50], y, subset_size=50, num_subsets=3)
    assert same == pytest.approx(kernel_distance(x[:50], y), rel=1e-10)


# Precision and recall.


def plain_precision_recall(x, y, neighbors):
    def covered(points, centres):
        count = 0
        for point in points:
            for i, centre in enumerate(centres):
                others = np.delete(centres, i, 0)
                away = sorted(np.linalg.norm(o - centre) for o in others)
                if np.linalg.norm(point - centre) <= away[neighbors - 1]:
                    count += 1
                    break
        return count / len(points)

    return covered(y, x), covered(x, y)


def column(*values):
    return np.array(values, "float64")[:, None]


def test_precision_recall_of_hand_made_sets():
    real = column(0, 1, 10, 11)  # every ball reaches to 1
    # 12 lies on the edge, 5 and 20 outside of each ball.
    assert precision_recall(real, column(0.5, 5, 12, 20), 1) == (0.5, 1.0)
    # One mode alone: all of it real, half of the real covered.
    assert precision_recall(real, column(0, 0.4, 0.7, 1), 1) == (1.0, 0.5)
    # Two neighbours: balls of 9 or 10 around the same points.
    far = column(5, 19, 20, 21.5)
    assert precision_recall(real, far, 1) == (0.0, 1.0)
    assert precision_recall(real, far, 2) == (0.75, 1.0)
    assert precision_recall(real, real + 100.0, 3) == (0.0, 0.0)
    assert precision_recall(real, real, 1) == (1.0, 1.0)


@pytest.mark.parametrize("neighbors", [1, 3, 5])
@pytest.mark.parametrize("max_pairs", [1, 50, 2**22])
def test_precision_recall_is_brute_force(
    neighbors, max_pairs, generator, monkeypatch
):
    monkeypatch.setattr(distances, "MAX_PAIRS", max_pairs)
    x = generator.normal(size=(30, 3))
    y = generator.normal(size=(21, 3)) + 1.5
    wanted = plain_precision_recall(x, y, neighbors)
    assert 0 < wanted[0] < 1 and 0 < wanted[1] < 1
    assert precision_recall(x, y, neighbors) == pytest.approx(wanted)
    assert precision_recall(y, x, neighbors) == pytest.approx(wanted[::-1])


@pytest.mark.parametrize("width", [1, 3, 33, 2048])
def test_copies_are_at_no_distance(width, generator):
    # Balls of no radius: rounding would decide what they cover.
    x = np.repeat(generator.normal(size=(20, width)) * 1e3 + 1e4, 5, 0)
    (squares,) = distances._squares(x, x)
    same = np.arange(100) // 5
    np.testing.assert_array_equal(squares == 0, same[:, None] == same)
    assert precision_recall(x, x[::5]) == (1.0, 1.0)
    assert precision_recall(x, x + 1e-2) == (0.0, 0.0)


def test_memory_is_bounded(generator, monkeypatch):
    monkeypatch.setattr(distances, "MAX_PAIRS", 2**14)
    x, y = generator.normal(size=(2, 1500, 2))
    for metric in (kernel_distance, precision_recall):
        tracemalloc.start()
        metric(x, y)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # A table of all pairs alone would be 18 MB.
        assert most < 3e6, metric


# Refusals.


@pytest.mark.parametrize("metric", METRICS)
def test_unfit_features_are_refused(metric, generator):
    x = generator.normal(size=(6, 3))
    for y in (x[0], x[None], x[:, :2], x[:1], x[:0]):
        for pair in ((x, y), (y, x)):
            with pytest.raises(ValueError, match="Received: shapes .* Use one"):
                metric(*pair)
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[4, 1] = bad
        with pytest.raises(ValueError, match="in row 4 of `y`. Repair"):
            metric(x, y)
        with pytest.raises(ValueError, match="in row 4 of `x`. Repair"):
            metric(y, x)


def test_too_few_rows_are_refused(generator):
    x, y = generator.normal(size=(6, 3)), generator.normal(size=(5, 3))
    for neighbors in (0, 5, -1):
        with pytest.raises(ValueError, match="from 1 to 4 .* Received: nei"):
            precision_recall(x, y, neighbors=neighbors)
    for size in (1, 6):
        with pytest.raises(ValueError, match="from 2 to 5 .* Received: sub"):
            kernel_distance(x, y, subset_size=size)
