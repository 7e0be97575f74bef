"""MAUVE: reference figures, closed forms, a second implementation, clusters.

Tolerances: tests/golden/README.md#metricsnpz
"""

import math
import sys

import numpy as np
import pytest
import scipy.cluster.vq
import scipy.special

from keras_dblocks.applications.metrics import (
    bucket_counts,
    mauve,
    mauve_of_counts,
)
from keras_dblocks.applications.metrics.mauve import (
    EXPLAINED_VARIANCE,
    MAX_ITERATIONS,
    MIXTURES,
    NUM_REDOS,
    _cluster,
    _divergence_curve,
    _project,
)

pytestmark = pytest.mark.once

BUCKETS = ["auto", "10"]
SCALES = {"5": 5.0, "2": 2.0, "0p2": 0.2}


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# MAUVE of counts.


def golden_labels(figures, buckets):
    return [figures[f"mauve/{buckets}/{name}_labels"] for name in "pq"]


@pytest.mark.parametrize("buckets", BUCKETS)
@pytest.mark.parametrize("scale", SCALES)
def test_scores_agree_with_the_published_program(buckets, scale, golden):
    figures = golden("metrics")
    key = f"mauve/{buckets}_scale{scale}"
    num_buckets = int(figures[f"mauve/{buckets}/num_buckets"])
    counts = []
    for name, labels in zip("pq", golden_labels(figures, buckets), strict=True):
        counts.append(np.bincount(labels, minlength=num_buckets))
        histogram = figures[f"mauve/{buckets}/{name}_hist"]
        np.testing.assert_allclose(
            counts[-1] / len(labels), histogram, rtol=1e-15
        )
    ours = mauve_of_counts(*counts, SCALES[scale])
    wanted = [float(figures[f"{key}/{n}"]) for n in ("mauve", "mauve_star")]
    assert list(ours) == pytest.approx(wanted, rel=0, abs=1e-13)
    curve = _divergence_curve(*counts, SCALES[scale])
    wanted = figures[f"{key}/divergence_curve"]
    np.testing.assert_allclose(curve, wanted, rtol=0, atol=1e-13)


def test_settings_are_those_of_the_published_program(golden):
    settings = golden("metrics")["config"]["mauve_defaults"]
    assert EXPLAINED_VARIANCE == settings["kmeans_explained_var"]
    assert NUM_REDOS == settings["kmeans_num_redo"]
    assert MAX_ITERATIONS == settings["kmeans_max_iter"]
    assert len(MIXTURES) == settings["divergence_curve_discretization_size"]


def plain_mauve(p, q, scale):
    """One bucket and one mixture at a time."""
    p, q = [n / sum(p) for n in p], [n / sum(q) for n in q]

    def divergence(of, weight):
        total = 0.0
        for i, share in enumerate(of):
            if share > 0:
                mixed = weight * p[i] + (1 - weight) * q[i]
                total += share * math.log(share / mixed)
        return math.exp(-scale * total)

    weights = [1e-6 + i * (1 - 2e-6) / 24 for i in range(25)]
    x = [1.0, *(divergence(q, weight) for weight in weights), 0.0]
    y = [0.0, *(divergence(p, weight) for weight in weights), 1.0]
    steps = range(len(x) - 1)
    return sum((x[i] - x[i + 1]) * (y[i] + y[i + 1]) / 2 for i in steps)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0, 20.0])
def test_scores_are_a_plain_sum(scale, generator):
    p, q = generator.integers(0, 9, (2, 12))
    p[3] = q[4] = p[5] = q[5] = 0
    ours = mauve_of_counts(p, q, scale)
    wanted = plain_mauve(p, q, scale), plain_mauve(p + 0.5, q + 0.5, scale)
    assert ours == pytest.approx(wanted, rel=1e-10)
    assert 0 < ours[0] < ours[1] < 1


def test_disjoint_sets():
    # x = (1 - w)^c, y = w^c: the area under them is c B(c + 1, c). At c = 1
    # they are a straight line, which 25 points describe exactly.
    assert mauve_of_counts([7, 0], [0, 3], 1.0)[0] == pytest.approx(0.5)
    for scale in (2.0, 5.0):
        ours, star = mauve_of_counts([7, 0], [0, 3], scale)
        wanted = scale * scipy.special.beta(scale + 1, scale)
        assert ours == pytest.approx(wanted, abs=2e-3)
        assert star > ours
    # Texts of which a half are in common.
    half = mauve_of_counts([1, 1, 0], [0, 1, 1])[0]
    assert mauve_of_counts([1, 0], [0, 1])[0] < half < 1


def test_equal_shares_are_1_and_no_others():
    for scale in (0.2, 5.0, 50.0):
        ours = mauve_of_counts([3, 0, 5], [3, 0, 5], scale)
        assert ours == pytest.approx((1.0, 1.0), abs=1e-12)
        # Ten times the texts: the same shares, not the same smoothed ones.
        more, star = mauve_of_counts([3, 0, 5], [30, 0, 50], scale)
        assert more == pytest.approx(1.0, abs=1e-12)
        assert star < 1 - 1e-6
    assert mauve_of_counts([3, 0, 5], [3, 1, 5])[0] < 0.99


def test_scores_do_not_depend_on_names(generator):
    p, q = generator.integers(0, 9, (2, 12))
    ours = mauve_of_counts(p, q)
    assert mauve_of_counts(q, p) == pytest.approx(ours, rel=1e-12)
    order = generator.permutation(12)
    again = mauve_of_counts(p[order], q[order])
    assert again == pytest.approx(ours, rel=1e-12)
    # One of the sets alone in another order is another set.
    assert abs(mauve_of_counts(p[order], q)[0] - ours[0]) > 1e-2
    # A bucket no text falls into: only MAUVE* sees it.
    wider, star = mauve_of_counts([*p, 0], [*q, 0])
    assert wider == pytest.approx(ours[0], rel=1e-12)
    assert star > ours[1] + 1e-5


def test_what_raises_a_score(generator):
    p, q = generator.integers(0, 9, (2, 12))
    # Data processing: coarser buckets hide differences.
    coarse = mauve_of_counts(p.reshape(6, 2).sum(1), q.reshape(6, 2).sum(1))
    assert mauve_of_counts(p, q)[0] < coarse[0]
    # A smaller scaling factor flatters.
    scales = [mauve_of_counts(p, q, s)[0] for s in (9.0, 5.0, 2.0, 0.2)]
    assert (np.diff(scales) > 0.01).all()
    # So does each text that moves to where the others are.
    moves = [mauve_of_counts([50, 50], [k, 100 - k])[0] for k in range(51)]
    assert (np.diff(moves) > 0).all() and moves[-1] == pytest.approx(1.0)


# From features to counts.


@pytest.mark.parametrize("buckets", BUCKETS)
def test_published_labels_are_a_fixed_point_of_our_clustering(buckets, golden):
    # They fit only the rows they were made of: scaled, centred and projected.
    figures = golden("metrics")
    p, q = figures["mauve/p_features"], figures["mauve/q_features"]
    rows = _project(np.concatenate([p, q]))
    assert rows.shape == (600, figures["mauve/pca_dim"])
    labels = np.concatenate(golden_labels(figures, buckets))
    centres = [rows[labels == k].mean(0) for k in range(labels.max() + 1)]
    squares = np.square(rows[:, None] - centres).sum(-1)  # (600, K)
    np.testing.assert_array_equal(squares.argmin(1), labels)


@pytest.mark.parametrize("buckets", BUCKETS)
def test_own_clustering_comes_close_to_published_scores(buckets, golden):
    figures = golden("metrics")
    p, q = figures["mauve/p_features"], figures["mauve/q_features"]
    num_buckets = buckets if buckets == "auto" else int(buckets)
    runs = [bucket_counts(p, q, num_buckets, seed) for seed in range(30)]
    assert len(runs[0][0]) == figures[f"mauve/{buckets}/num_buckets"]
    # How far another seed moved the published program, at the most.
    for scale, most in (("5", 0.05), ("2", 0.02), ("0p2", 5e-4)):
        scores = [mauve_of_counts(*run, SCALES[scale]) for run in runs]
        mean, spread = np.mean(scores, 0), np.std(scores, 0)
        assert (spread < most).all()
        for name, score in (
            ("mauve", 0),
            ("mauve_star", 1),
            ("mauve_other_kmeans_seed", 0),
        ):
            wanted = figures[f"mauve/{buckets}_scale{scale}/{name}"]
            # One draw of it among 30 of ours.
            assert abs(wanted - mean[score]) < 3 * spread[score], name
            assert abs(wanted - mean[score]) < most, name


def directions(generator, counts):
    """Rows near the axes, as many as `counts`, of any length."""
    rows = np.repeat(np.eye(len(counts)), counts, 0)
    rows += generator.normal(size=rows.shape) * 0.01
    return rows * generator.uniform(0.1, 9.0, (len(rows), 1))


def test_separate_directions_are_counted(generator):
    # The lengths of rows would be the largest difference, did they count.
    p = directions(generator, [30, 10])
    q = directions(generator, [5, 45])
    for seed in range(5):
        of_p, of_q = bucket_counts(p, q, 2, seed)
        assert sorted(zip(of_p, of_q, strict=True)) == [(10, 45), (30, 5)]
    wanted = mauve_of_counts([30, 10], [5, 45], 2.0)
    assert mauve(p, q, 2, 2.0) == pytest.approx(wanted, rel=1e-12)
    assert mauve(q, p, 2, 2.0) == pytest.approx(wanted, rel=1e-12)
    assert mauve(p[::-1], q[::-1], 2, 2.0) == pytest.approx(wanted, rel=1e-12)
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    turned = mauve(p @ turn, q @ turn, 2, 2.0)
    assert turned == pytest.approx(wanted, rel=1e-12)
    single = mauve(p.astype("float32"), q.astype("float32"), 2, 2.0)
    assert single == pytest.approx(wanted, rel=1e-12)


def test_equal_sets_of_features_are_1(golden, generator):
    figures = golden("metrics")
    x = figures["mauve/p_features"]
    ours = mauve(x, generator.permutation(x))
    assert ours == pytest.approx((1.0, 1.0), abs=1e-12)
    assert ours[0] == pytest.approx(figures["mauve/identical"], abs=1e-12)


def test_texts_of_one_source_score_above_those_of_two(generator):
    x, y = generator.normal(size=(2, 400, 6)) + 1.0
    axis = np.eye(6)[0]
    scores = [mauve(x, other)[0] for other in (y - 4 * axis, y - axis, y)]
    assert (np.diff(scores) > 0.05).all() and scores[-1] > 0.9
    # Half of the modes: what is written is real, but not all of it.
    assert mauve(x, y[y[:, 0] > 1])[0] < scores[-1] - 0.05


def test_number_of_buckets(generator):
    x, y = generator.normal(size=(90, 3)), generator.normal(size=(42, 3))
    for wanted, args in ((4, ()), (7, (7,)), (132, (132,))):
        of_x, of_y = bucket_counts(x, y, *args)
        assert of_x.shape == of_y.shape == (wanted,)
        assert (of_x.sum(), of_y.sum()) == (90, 42)
    assert len(bucket_counts(x[:3], y[:3])[0]) == 2
    # A bucket for each text: nothing in common.
    disjoint = mauve_of_counts([1, 0], [0, 1])[0]
    assert mauve(x, y, 132)[0] == pytest.approx(disjoint, rel=1e-12)


def test_seed_fixes_the_clustering(generator):
    x, y = generator.normal(size=(2, 100, 5))
    counts = [bucket_counts(x, y, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(counts[0], counts[1])
    assert (np.array(counts[0]) != counts[2]).any()


def test_features_are_projected_on_their_principal_axes(generator):
    x = generator.normal(size=(50, 5)) * [9.0, 3.0, 1.0, 0.1, 0.1]
    x = 1e3 * (x + 4.0)  # lengths and the mean must not matter
    points = _project(x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    unit -= unit.mean(0)
    variances = np.linalg.svd(unit, compute_uv=False) ** 2
    share = np.cumsum(variances) / variances.sum()
    assert points.shape == (50, 1 + (share < EXPLAINED_VARIANCE).sum())
    np.testing.assert_allclose(
        np.square(points).sum(0), variances[: points.shape[1]], rtol=1e-9
    )


def test_clusters_are_a_minimum_as_low_as_those_of_scipy(generator):
    points = generator.normal(size=(300, 4))

    def loss(labels):
        means = [points[labels == k].mean(0) for k in range(12)]
        distances = np.square(points[:, None] - means).sum(-1)
        np.testing.assert_array_equal(distances.argmin(1), labels)
        return distances.min(1).sum()

    ours = [loss(_cluster(points, 12, seed)) for seed in range(5)]
    scipys = []
    for seed in range(25):
        start = np.random.default_rng(seed).choice(points, 12, False)
        kmeans = scipy.cluster.vq.kmeans2(points, start, 200, minit="matrix")
        scipys.append(loss(kmeans[1]))
    # One of ours is the best of `NUM_REDOS` runs.
    assert min(scipys) * 0.99 < np.mean(ours) < np.mean(scipys)


def test_fewer_different_points_than_clusters(generator):
    points = np.array([[0.0], [0.0], [0.0], [5.0], [5.0], [9.0]])
    for seed in range(9):
        labels = _cluster(points, 5, seed)
        assert len(set(labels)) == 3
        assert all(len(set(labels[points[:, 0] == v])) == 1 for v in (0, 5, 9))


def test_a_missing_package_is_named(monkeypatch, generator):
    x = generator.normal(size=(20, 3))
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match="scikit-learn.*dblocks\\[data\\]"):
        mauve(x, x)


def test_rows_of_nothing_and_rows_all_alike():
    x = np.zeros((20, 3))
    assert mauve(x, x + 2.0) == (mauve_of_counts([20, 0], [0, 20]))
    same = mauve(x, x)
    assert same == pytest.approx((1.0, 1.0), abs=1e-12)


# Refusals.


@pytest.mark.parametrize("metric", [mauve, bucket_counts])
def test_unfit_features_are_refused(metric, generator):
    x = generator.normal(size=(6, 3))
    for y in (x[0], x[None], x[:, :2], x[:1], x[:0]):
        for pair in ((x, y), (y, x)):
            with pytest.raises(ValueError, match="Received: shapes .* Use one"):
                metric(*pair)
    y = x.copy()
    y[4, 1] = np.nan
    with pytest.raises(ValueError, match="in row 4 of `q_features`. Repair"):
        metric(x, y)
    y[4, 1] = np.inf
    with pytest.raises(ValueError, match="in row 4 of `p_features`. Repair"):
        metric(y, x)
    for number in (1, 13):
        with pytest.raises(ValueError, match="2 to 12 .* Received: num_bu"):
            metric(x, x, number)


def test_unfit_counts_are_refused():
    for p, q in (
        ([1, 2], [1, 2, 3]),
        ([[1, 2]], [[1, 2]]),
        ([1, -1], [1, 2]),
        ([1, 2], [0, 0]),
        ([0.4, 0.6], [0.5, 0.5]),
        ([], []),
    ):
        with pytest.raises(ValueError, match="Received: .* Pass how many"):
            mauve_of_counts(p, q)
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="above 0 .* Received: scal"):
            mauve_of_counts([1, 2], [2, 1], scale)
