"""Weights the losses of examples and averages them over a batch."""

from keras import ops

WEIGHTINGS = ("none", "edm", "batch_mean")


def check_weighting(weighting):
    """Raises a ValueError unless `weighting` is None or in `WEIGHTINGS`."""
    if weighting not in (None, *WEIGHTINGS):
        raise ValueError(
            f"`loss_weighting` must be one of {WEIGHTINGS}. "
            f"Received: {weighting!r}. Leave it out for the default."
        )


def weighted_mean(
    loss,
    level=None,
    weighting="none",
    preconditioning=None,
    sample_weight=None,
    counts=None,
):
    """Mean loss of a batch (docs/method.md#loss-and-weighting).

    Args:
        loss: float32 tensor `(B,)`.
        level: float32 tensor `(B,)`, noise levels, which `"none"` ignores.
        weighting: `"none"`; `"edm"`, which multiplies each example's loss by
            the weight of its level; or `"batch_mean"`, which multiplies the
            mean loss by the mean weight, as the reference does by a broadcast
            (docs/method.md#errors-in-the-sources).
        preconditioning: `Preconditioning`, whose `weight` is used.
        sample_weight: tensor `(B,)` or `(B, 1)`, or None.
        counts: float32 tensor `(B,)`, how much each example counts in the
            mean, or None if all count alike.

    Returns:
        float32 scalar.
    """
    if sample_weight is not None:
        weight = ops.reshape(sample_weight, ops.shape(loss))
        loss = loss * ops.cast(weight, loss.dtype)
    if counts is not None:
        # Their mean is 1, so that the mean below is the weighted one.
        loss = loss * counts / ops.maximum(ops.mean(counts), 1e-6)
    if weighting == "none":
        return ops.mean(loss)
    weight = preconditioning.weight(level)
    if weighting == "edm":
        return ops.mean(weight * loss)
    return ops.mean(weight) * ops.mean(loss)
