"""Rotary position embedding of queries and keys."""

import numpy as np
from keras import ops


def rotate(x, theta=10000.0, start=0):
    """Rotates pairs of features `(j, j + d / 2)` by angles of the position.

    Args:
        x: tensor `(B, T, H, d)` with even d.
        theta: float. Base of the wavelengths. Defaults to `10000`.
        start: int, or int tensor `()`. Position of the first slot of `x`.

    Returns:
        Tensor of the same shape.

    References:
     - [RoFormer](https://arxiv.org/abs/2104.09864), Section 3.2
    """
    length, dim = x.shape[1], x.shape[-1]
    rates = theta ** -(np.arange(0, dim, 2) / dim)  # (d / 2,)
    if isinstance(start, int):
        positions = start + np.arange(length)
        angles = positions[:, None, None] * rates  # (T, 1, d / 2)
        cos, sin = (
            ops.convert_to_tensor(f(angles).astype("float32"), dtype=x.dtype)
            for f in (np.cos, np.sin)
        )
    else:  # known only when the compiled loop runs
        positions = ops.cast(start + ops.arange(length), "float32")
        rates = ops.convert_to_tensor(rates.astype("float32"))
        angles = positions[:, None, None] * rates
        cos, sin = (ops.cast(f(angles), x.dtype) for f in (ops.cos, ops.sin))
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate(
        [first * cos - second * sin, second * cos + first * sin], -1
    )
