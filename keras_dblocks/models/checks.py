"""Refusals of data, before training starts."""

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


def _show(shape):
    return "(" + ", ".join("N" if s is None else str(s) for s in shape) + ")"
