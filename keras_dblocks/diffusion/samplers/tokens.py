"""Drawing tokens from logits."""

import numbers

from keras import ops

HIDDEN = -1e9  # a logit that is never drawn


def check_drawing(temperature, top_p):
    """Raises a ValueError for an invalid `temperature` or `top_p`."""
    real = all(isinstance(v, numbers.Real) for v in (temperature, top_p))
    if not real or not temperature >= 0 or not 0 < top_p <= 1:
        raise ValueError(
            "`temperature` must be at least 0 and `top_p` in (0, 1]. "
            f"Received: temperature={temperature!r}, top_p={top_p!r}. Use 1."
        )


def draw(logits, uniform):
    """Tokens drawn by inversion of the distribution function.

    Args:
        logits: float tensor `(..., V)`.
        uniform: float32 tensor `(...)` in [0, 1), one number for each token.

    Returns:
        int32 tensor `(...)`.
    """
    share = ops.cumsum(ops.softmax(logits, axis=-1), axis=-1)
    # Scaled by the whole sum, so that rounding cannot choose a token past the
    # last one.
    passed = share <= ops.expand_dims(uniform, -1) * share[..., -1:]
    return ops.sum(ops.cast(passed, "int32"), -1)


def nucleus(logits, top_p):
    """Hides all but the likeliest tokens that hold `top_p` of the probability.

    The likeliest token is never hidden.
    """
    descending = -ops.sort(-logits, axis=-1)
    share = ops.cumsum(ops.softmax(descending, axis=-1), axis=-1)
    before = share - ops.softmax(descending, axis=-1)
    kept = ops.where(before < top_p, descending, -HIDDEN)
    least = ops.min(kept, axis=-1, keepdims=True)
    return ops.where(logits < least, HIDDEN, logits)
