"""Distances between two sets of features, one row for each example."""

import numpy as np

MAX_PAIRS = 2**22  # of rows that are in memory at a time: 32 MB


def frechet_distance(x, y):
    """`|mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`.

    It decreases with the number of rows, so that only distances between equally
    many rows can be compared.

    Args:
        x, y: arrays `(n, D)` and `(m, D)`, with n and m above D if possible.

    Returns:
        float, 0 or above, in squared units of the features.

    Raises:
        ValueError: for other shapes, fewer than 2 rows, NaN or infinity.

    Example: `frechet_distance(x, x + 1.0)` is D.

    References:
     - [FID](https://arxiv.org/abs/1706.08500), Equation 6
    """
    x, y = check_features(x, y)
    # With C = R^T R, tr (C_x C_y)^(1/2) is the sum of the singular values of
    # R_x R_y^T. This is exact also where the covariances are singular.
    root_x, root_y = _root(x), _root(y)  # (min(n, D), D)
    shared = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    means = np.square(x.mean(0) - y.mean(0)).sum()
    traces = np.square(root_x).sum() + np.square(root_y).sum()
    return max(0.0, float(means + traces - 2.0 * shared))


def kernel_distance(x, y, subset_size=None, num_subsets=100, seed=0):
    """Unbiased squared MMD with the kernel `(x.y / D + 1)^3`.

    For two sets from the same distribution the expected value is 0, for any
    number of rows; single values may be negative.

    Args:
        x, y: arrays `(n, D)` and `(m, D)`.
        subset_size: int or None. None uses all rows at once. Otherwise the
            result is the mean over `num_subsets` random subsets of this size.
        num_subsets: int.
        seed: int, of the random subsets.

    Returns:
        float.

    Raises:
        ValueError: as `frechet_distance`, and for subsets larger than a set.

    Example: `kernel_distance([[0.0], [0.0]], [[1.0], [1.0]])` is 7.

    References:
     - [KID](https://arxiv.org/abs/1801.01401), Section 4
    """
    x, y = check_features(x, y)
    if subset_size is None:
        return _squared_mmd(x, y)
    check_range("subset_size", subset_size, 2, min(len(x), len(y)))
    draw = np.random.default_rng(seed).choice
    pairs = (
        [draw(f, subset_size, False) for f in (x, y)]
        for _ in range(num_subsets)
    )
    return float(np.mean([_squared_mmd(*pair) for pair in pairs]))


def precision_recall(x, y, neighbors=3):
    """Share of generated rows that the real ones cover, and the reverse.

    Each row of a set covers a ball whose radius is the distance to its
    `neighbors`-th nearest other row of the set. Precision is the share of `y`
    that `x` covers, and recall the share of `x` that `y` covers.

    Args:
        x, y: arrays `(n, D)`, real, and `(m, D)`, generated. Usually n = m.
        neighbors: int, at least 1 and less than n and m.

    Returns:
        `(precision, recall)`, floats in [0, 1].

    Raises:
        ValueError: as `frechet_distance`, and for `neighbors` out of range.

    Example: `precision_recall([[0.0], [1.0]], [[1.0], [9.0]], 1)` is (0.5, 1).

    References:
     - [Improved precision and recall](https://arxiv.org/abs/1904.06991)
    """
    x, y = check_features(x, y)
    check_range("neighbors", neighbors, 1, min(len(x), len(y)) - 1)
    return _covered(y, x, neighbors), _covered(x, y, neighbors)


def _root(x):
    return np.linalg.qr(x - x.mean(0), mode="r") / (len(x) - 1) ** 0.5


def _squared_mmd(x, y):
    return _mean_kernel(x) + _mean_kernel(y) - 2.0 * _mean_kernel(x, y)


def _mean_kernel(x, y=None):
    columns = (x if y is None else y).T / x.shape[1]
    total = sum(((b @ columns + 1.0) ** 3).sum() for b in _blocks(x, columns.T))
    if y is not None:
        return total / (len(x) * len(y))
    # The pair of a row with itself would bias the estimate.
    diagonal = ((np.square(x).mean(1) + 1.0) ** 3).sum()
    return (total - diagonal) / (len(x) * (len(x) - 1))


def _covered(points, centres, neighbors):
    # The nearest row of a centre is the centre itself. `max` copies, so that
    # the large result of `partition` is freed.
    radii = [
        np.partition(squares, neighbors)[:, : neighbors + 1].max(1)
        for squares in _squares(centres, centres)
    ]
    radii = np.concatenate(radii)
    inside = [(block <= radii).any(1) for block in _squares(points, centres)]
    return float(np.concatenate(inside).mean())


def _squares(x, y):
    """Yields squared distances `(b, m)` of `b` rows of `x` to all of `y`."""
    for block in _blocks(x, y):
        norms = np.square(block).sum(1)[:, None] + np.square(y).sum(1)
        squares = norms - 2.0 * block @ y.T
        # Between equal rows, rounding leaves at most this, of either sign.
        rounding = np.finfo("float64").eps * y.shape[1] * norms
        yield np.where(squares > rounding, squares, 0.0)


def _blocks(x, y):
    size = max(1, MAX_PAIRS // len(y))
    return (x[start : start + size] for start in range(0, len(x), size))


def check_features(x, y, names=("x", "y"), example="example"):
    """Returns two sets of features as float64 arrays, or raises a `ValueError`.

    Args:
        x, y: arrays `(n, D)` and `(m, D)`.
        names: names of the two arguments, for the message.
        example: string, what a row describes, for the message.
    """
    x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
    fits = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]
    if not fits or min(len(x), len(y)) < 2:
        raise ValueError(
            "Features must be two arrays (n, D) and (m, D) of 2 rows or more. "
            f"Received: shapes {x.shape} and {y.shape}. Use one extractor for "
            f"both sets, with one row of features for each {example}."
        )
    for name, features in zip(names, (x, y), strict=True):
        finite = np.isfinite(features).all(1)
        if not finite.all():
            raise ValueError(
                "Features must be finite. Received: NaN or infinity in row "
                f"{finite.argmin()} of `{name}`. Repair or drop that {example}."
            )
    return x, y


def check_range(name, value, low, high):
    """Raises a `ValueError` unless `value` is from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(
            f"`{name}` must be from {low} to {high} for this many rows. "
            f"Received: {name}={value}. Use more examples, or a smaller value."
        )
