"""MAUVE: how far the features of generated text are from those of real text."""

# n, m rows of the two sets, D features, K buckets

import numpy as np

from keras_dblocks.applications.metrics.distances import (
    _check,
    _check_range,
    _squares,
)

# The settings of published figures, those of the paper's program.
EXPLAINED_VARIANCE = 0.9
NUM_REDOS = 5
MAX_ITERATIONS = 500
MIXTURES = np.linspace(1e-6, 1.0 - 1e-6, 25)[:, None]


def mauve(
    p_features, q_features, num_buckets="auto", scaling_factor=5.0, seed=0
):
    """Area under the divergence curve of two sets of features: 1 if equal.

    Compare figures of one extractor, `num_buckets`, `scaling_factor` and
    number of rows only. A smaller `scaling_factor` flatters: 0.67 at 5 was
    0.92 at 2 and 0.999 at 0.2. Another `seed` clusters anew: that 0.67 moves
    by about 0.03.

    Args:
        p_features, q_features: arrays `(n, D)` and `(m, D)`, a row a text.
        num_buckets: int or `"auto"`, a tenth of the smaller set, 2 or more.
        scaling_factor: float above 0.
        seed: int. Fixes where the clustering starts.

    Returns:
        `(mauve, mauve_star)`, floats in (0, 1]. MAUVE* adds 1/2 to each
        bucket's counts, so that buckets few texts fall into count less.

    Raises:
        ValueError: as `bucket_counts` and `mauve_of_counts`.

    Example: `mauve(x, x[::-1])` is (1, 1), up to rounding.

    References:
     - [MAUVE](https://arxiv.org/abs/2102.01454), Section 2
     - [MAUVE*](https://arxiv.org/abs/2212.14578): smoothed counts
    """
    counts = bucket_counts(p_features, q_features, num_buckets, seed)
    return mauve_of_counts(*counts, scaling_factor)


def bucket_counts(p_features, q_features, num_buckets="auto", seed=0):
    """How many rows of each set fall into each cluster of both together.

    Rows are scaled to length 1 and turned onto the principal axes that hold
    90 % of the variance. Of 5 runs of k-means from random rows the one with
    the least squares counts.

    Args:
        p_features, q_features, num_buckets, seed: as `mauve`.

    Returns:
        Two int arrays `(K,)` with the sums n and m.

    Raises:
        ValueError: for other shapes, fewer than 2 rows, NaN or infinity; for
            more buckets than rows.

    Example: `mauve_of_counts(*bucket_counts(x, y), scaling_factor=2.0)`;
        several scaling factors can share one clustering.
    """
    names = ("p_features", "q_features")
    p, q = _check(p_features, q_features, names, "text")
    if num_buckets == "auto":
        num_buckets = max(2, round(min(len(p), len(q)) / 10))
    _check_range("num_buckets", num_buckets, 2, len(p) + len(q))
    rows = _project(np.concatenate([p, q]))
    random = np.random.default_rng(seed)
    runs = [_kmeans(rows, num_buckets, random) for _ in range(NUM_REDOS)]
    labels = min(runs, key=lambda run: run[1])[0]
    of_p, of_q = np.split(labels, [len(p)])
    return (
        np.bincount(of_p, minlength=num_buckets),
        np.bincount(of_q, minlength=num_buckets),
    )


def mauve_of_counts(p_counts, q_counts, scaling_factor=5.0):
    """`mauve` of texts that are in buckets already.

    Args:
        p_counts, q_counts: int arrays `(K,)`, 0 or above.
        scaling_factor: float above 0.

    Returns:
        `(mauve, mauve_star)`, as `mauve`.

    Raises:
        ValueError: for other shapes, empty sets, or shares in place of counts.

    Example: `mauve_of_counts([30, 10], [10, 30])` is (0.56, 0.58).
    """
    counts = p, q = np.asarray(p_counts), np.asarray(q_counts)
    fits = p.ndim == q.ndim == 1 and len(p) == len(q)
    if not fits or any(
        c.dtype.kind not in "iu" or (c < 0).any() or not c.any() for c in counts
    ):
        raise ValueError(
            "Counts must be two int arrays (K,) from 0, not all 0. "
            f"Received: {p_counts} and {q_counts}. Pass how many texts fall "
            "into each bucket, not their share: MAUVE* depends on it."
        )
    if not 0.0 < scaling_factor < np.inf:
        raise ValueError(
            "`scaling_factor` must be above 0 and finite. "
            f"Received: scaling_factor={scaling_factor}. Use 5, the default."
        )
    # 1/2 in each bucket: the estimator of Krichevsky and Trofimov.
    return tuple(_area(p + s, q + s, scaling_factor) for s in (0.0, 0.5))


def _area(p, q, scaling_factor):
    x, y = _divergence_curve(p, q, scaling_factor).T
    return float((x[:-1] - x[1:]) @ (y[:-1] + y[1:]) / 2.0)


def _divergence_curve(p, q, scaling_factor):
    """Points `(27, 2)` from (1, 0) to (0, 1)."""
    p, q = p / p.sum(), q / q.sum()
    mixed = MIXTURES * p + (1.0 - MIXTURES) * q  # (25, K)
    divergences = np.stack([_divergence(f, mixed) for f in (q, p)], 1)
    # MAUVE, Equation 1
    curve = np.exp(-scaling_factor * divergences)
    return np.concatenate([[[1.0, 0.0]], curve, [[0.0, 1.0]]])


def _divergence(p, mixed):
    """`KL(p | mixed)` in nats `(25,)`: empty buckets of `p` add nothing."""
    used = p > 0
    return np.log(p[used] / mixed[:, used]) @ p[used]


def _project(rows):
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(sizes > 0, sizes, 1.0)
    rows -= rows.mean(0)
    # R has the singular values and axes of the rows, and is no taller than D.
    root = np.linalg.qr(rows, mode="r")
    _, values, axes = np.linalg.svd(root, full_matrices=False)
    explained = np.cumsum(np.square(values))
    wanted = EXPLAINED_VARIANCE * explained[-1]
    return rows @ axes[: np.searchsorted(explained, wanted) + 1].T


def _kmeans(rows, num_clusters, random):
    """Lloyd's algorithm: labels `(rows,)`, and the sum of the squares."""
    centres = rows[random.choice(len(rows), num_clusters, replace=False)]
    labels = None
    for _ in range(MAX_ITERATIONS):
        before = labels
        nearest = [(s.argmin(1), s.min(1)) for s in _squares(rows, centres)]
        labels, squares = map(np.concatenate, zip(*nearest, strict=True))
        if np.array_equal(labels, before):
            break
        order = labels.argsort(kind="stable")
        filled, starts = np.unique(labels[order], return_index=True)
        sums = np.add.reduceat(rows[order], starts)
        centres[filled] = sums / np.bincount(labels)[filled, None]
        # Empty clusters move to the rows that fit worst.
        empty = np.setdiff1d(np.arange(num_clusters), filled)
        centres[empty] = rows[squares.argsort()[::-1][: len(empty)]]
    return labels, squares.sum()
