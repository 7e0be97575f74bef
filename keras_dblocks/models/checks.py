"""Refusals of data, before training starts."""

import keras
import numpy as np
from keras import ops


def check_array(array, spec, name="Input"):
    """Raises a ValueError unless `array` fits `spec` and is finite.

    Args:
        array: array of a batch or a whole set, first axis the examples.
        spec: `keras.KerasTensor`, batch size None.
        name: str, how the message calls the array.
    """
    shape, wanted = tuple(array.shape), tuple(spec.shape)
    fits = len(shape) == len(wanted) and all(
        w is None or s == w for s, w in zip(shape[1:], wanted[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} must have shape {_show(wanted)}. "
            f"Received: shape {shape}. Resize or reshape the data, or build "
            "the model for this shape."
        )
    array = ops.convert_to_numpy(array)
    if np.issubdtype(array.dtype, np.floating) and array.size:
        # A sum is one pass without a mask; only a bad one is looked into.
        with np.errstate(invalid="ignore", over="ignore"):
            total = float(array.sum(dtype="float64"))
        if not np.isfinite(total):
            finite = np.isfinite(array.reshape(len(array), -1)).all(-1)
            if not finite.all():
                raise ValueError(
                    f"{name} must be finite. Received: NaN or infinity in "
                    f"example {int(np.argmin(finite))} (of {len(array)}). "
                    "Remove or repair the examples."
                )


def check_rows(x, y=None, sample_weight=None):
    """Raises a ValueError unless all have one length and weights are finite."""
    lengths = [len(a) for a in (x, y, sample_weight) if a is not None]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(
            "Arrays must have one length, above 0. "
            f"Received: lengths {lengths}. Cut them to the same examples."
        )
    if sample_weight is not None:
        spec = keras.KerasTensor((None,))
        if len(sample_weight.shape) == 2 and sample_weight.shape[1] == 1:
            spec = keras.KerasTensor((None, 1))
        check_array(sample_weight, spec, "`sample_weight`")


def refuse_backend():
    """Raises a ValueError on a backend without gradients."""
    backend = keras.backend.backend()
    if backend not in ("jax", "tensorflow", "torch"):
        raise ValueError(
            "Training needs gradients. "
            f"Received: KERAS_BACKEND={backend}. "
            "Use jax, tensorflow or torch."
        )


def _show(shape):
    return "(" + ", ".join("N" if s is None else str(s) for s in shape) + ")"
