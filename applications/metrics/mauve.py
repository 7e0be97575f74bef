"""MAUVE: compares the features of generated text with those of real text."""

# n, m texts of the two sets, D features, K buckets

import importlib
import warnings

import numpy as np

from keras_dblocks.applications.metrics.distances import (
    check_features,
    check_range,
)

# The settings of the program that MAUVE's authors published, with which most
# published values of MAUVE are computed.
EXPLAINED_VARIANCE = 0.9
NUM_REDOS = 5
MAX_ITERATIONS = 500
MIXTURES = np.linspace(1e-6, 1.0 - 1e-6, 25)[:, None]


def mauve(
    p_features, q_features, num_buckets="auto", scaling_factor=5.0, seed=0
):
    """Area under the divergence curve of two sets of features.

    It is 1 for equal sets. Two values can be compared only if they are from
    the same extractor of features and the same `num_buckets`,
    `scaling_factor` and number of texts. A smaller `scaling_factor` gives
    larger values: two sets with 0.67 at 5 had 0.92 at 2 and 0.999 at 0.2.
    Another `seed` gives other clusters, which moves that 0.67 by about 0.03.

    Args:
        p_features, q_features: arrays `(n, D)` and `(m, D)`, one row for each
            text.
        num_buckets: int or `"auto"`, which is a tenth of the smaller set, and
            at least 2.
        scaling_factor: float above 0.
        seed: int, 0 or above, of the initial cluster centres.

    Returns:
        `(mauve, mauve_star)`, floats in (0, 1]. MAUVE* adds 1/2 to the counts
        of each bucket, so that buckets with few texts have less influence.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: as `bucket_counts` and `mauve_of_counts`.

    Example: `mauve(x, x[::-1])` is (1, 1), up to rounding.

    References:
     - [MAUVE](https://arxiv.org/abs/2102.01454), Section 2
     - [MAUVE*](https://arxiv.org/abs/2212.14578): smoothed counts
    """
    counts = bucket_counts(p_features, q_features, num_buckets, seed)
    return mauve_of_counts(*counts, scaling_factor)


def bucket_counts(p_features, q_features, num_buckets="auto", seed=0):
    """Clusters both sets together and counts the texts in each cluster.

    Rows are scaled to length 1 and projected on the principal axes that explain
    90 % of the variance. Among 5 runs of k-means, which start from randomly
    chosen rows, the one with the smallest sum of squares is used.

    Args:
        p_features, q_features, num_buckets, seed: as `mauve`.

    Returns:
        Two int arrays `(K,)` with the sums n and m.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: for other shapes, fewer than 2 rows, NaN or infinity, and
            for more buckets than rows.

    Example: `mauve_of_counts(*bucket_counts(x, y), scaling_factor=2.0)`. The
        same counts can be used for several scaling factors.
    """
    names = ("p_features", "q_features")
    p, q = check_features(p_features, q_features, names, "text")
    if num_buckets == "auto":
        num_buckets = max(2, round(min(len(p), len(q)) / 10))
    check_range("num_buckets", num_buckets, 2, len(p) + len(q))
    labels = _cluster(_project(np.concatenate([p, q])), num_buckets, seed)
    p_labels, q_labels = np.split(labels, [len(p)])
    return (
        np.bincount(p_labels, minlength=num_buckets),
        np.bincount(q_labels, minlength=num_buckets),
    )


def mauve_of_counts(p_counts, q_counts, scaling_factor=5.0):
    """`mauve` of texts that have been counted in buckets already.

    Args:
        p_counts, q_counts: int arrays `(K,)`, 0 or above.
        scaling_factor: float above 0.

    Returns:
        `(mauve, mauve_star)`, as `mauve`.

    Raises:
        ValueError: for other shapes, empty sets, and relative frequencies in
            place of counts.

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
    # Adding 1/2 to each count is the estimator of Krichevsky and Trofimov.
    return tuple(_area(p + s, q + s, scaling_factor) for s in (0.0, 0.5))


def _area(p, q, scaling_factor):
    x, y = _divergence_curve(p, q, scaling_factor).T
    return float((x[:-1] - x[1:]) @ (y[:-1] + y[1:]) / 2.0)


def _divergence_curve(p, q, scaling_factor):
    """Points `(27, 2)` of the divergence curve, from (1, 0) to (0, 1)."""
    p, q = p / p.sum(), q / q.sum()
    mixed = MIXTURES * p + (1.0 - MIXTURES) * q  # (25, K)
    divergences = np.stack([_divergence(f, mixed) for f in (q, p)], 1)
    # MAUVE, Equation 1
    curve = np.exp(-scaling_factor * divergences)
    return np.concatenate([[[1.0, 0.0]], curve, [[0.0, 1.0]]])


def _divergence(p, mixed):
    """`KL(p | mixed)` in nats `(25,)`, where 0 log 0 = 0."""
    used = p > 0
    return np.log(p[used] / mixed[:, used]) @ p[used]


def _project(features):
    """Scales rows to length 1 and projects them on their principal axes."""
    decomposition = _scikit_learn("decomposition")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features = features / np.where(lengths > 0, lengths, 1.0)
    if not np.ptp(features, axis=0).any():
        return features[:, :1]  # without variance there are no principal axes
    axes = decomposition.PCA(EXPLAINED_VARIANCE, svd_solver="full")
    return axes.fit_transform(features)


def _cluster(points, num_clusters, seed):
    """Returns the cluster `(n,)` of each of the points `(n, d)`."""
    kmeans = _scikit_learn("cluster").KMeans(
        num_clusters,
        init="random",
        n_init=NUM_REDOS,
        max_iter=MAX_ITERATIONS,
        tol=0.0,  # until no point changes its cluster
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Fewer different points than clusters: some clusters stay empty.
        exceptions = _scikit_learn("exceptions")
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        return kmeans.fit_predict(points)


def _scikit_learn(module):
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError(
            "MAUVE needs scikit-learn, for its clusters. "
            f"Received: {error}. "
            'Run `pip install "keras-dblocks[data]"`.'
        ) from error
