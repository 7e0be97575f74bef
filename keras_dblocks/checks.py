"""Checks of arguments and data, made before training starts."""

import numbers

import keras
import numpy as np
from keras import ops


def is_integer(value):
    """True for a Python or numpy integer, False for a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(name, value, least=1):
    """Raises a ValueError unless `value` is an integer of at least `least`."""
    if not is_integer(value) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}. Pass a whole number."
        )


def check_sizes(optional=(), **sizes):
    """Raises a ValueError unless all sizes are whole numbers above 0.

    Args:
        optional: names of the sizes that may be None.
        sizes: the sizes by name.
    """
    for name, value in sizes.items():
        if value is not None or name not in optional:
            check_integer(name, value)


def check_share(name, value, advice):
    """Raises a ValueError unless `value` is a number in [0, 1]."""
    if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(
            f"`{name}` must be a number in [0, 1]. "
            f"Received: {name}={value!r}. {advice}"
        )


def check_value_range(value_range):
    """Raises a ValueError unless a range of data ascends, or is None."""
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ValueError(
            "`value_range` must be a pair that ascends, or None. "
            f"Received: value_range={value_range}. Use (-1, 1) or (0, 255)."
        )


def check_array(array, spec, name="Input"):
    """Raises a ValueError unless `array` fits `spec` and is finite.

    Args:
        array: array of a batch or a whole data set, examples along axis 0.
        spec: `keras.KerasTensor` with batch size None.
        name: str. What the error message calls the array.
    """
    shape, wanted = tuple(np.shape(array)), tuple(spec.shape)
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
    if array.dtype.kind in "cOSU":
        raise ValueError(
            f"{name} must hold real numbers. "
            f'Received: dtype {array.dtype}. Use `astype("float32")`.'
        )
    if np.issubdtype(array.dtype, np.floating) and array.size:
        # A sum takes one pass and no mask. Only if it is not finite, the
        # examples are searched.
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


def shapes_agree(one, other):
    """Whether two shapes are equal, where None is any size (bool)."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in pairs
    )


def check_rows(x, y=None, sample_weight=None):
    """Raises a ValueError for unequal lengths or non-finite weights."""
    arrays = keras.tree.flatten((x, y, sample_weight))
    lengths = [len(a) for a in arrays if a is not None]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(
            "Arrays must have one length, above 0. "
            f"Received: lengths {lengths}. Cut them to the same examples."
        )
    if sample_weight is not None:
        column = np.shape(sample_weight)[1:] == (1,)
        spec = keras.KerasTensor((None, 1) if column else (None,))
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


def refuse_replicas(model):
    """Raises a ValueError inside a TensorFlow strategy of several replicas."""
    strategy = getattr(model, "distribute_strategy", None)
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if replicas > 1:
        raise ValueError(
            "On TensorFlow blocks are trained on one device. Received: "
            f"{replicas} replicas of a {type(strategy).__name__}. Use "
            "keras.distribution.DataParallel on JAX, torchrun on PyTorch, or "
            "one process for each block (docs/scaling.md)."
        )


def _show(shape):
    return "(" + ", ".join("N" if s is None else str(s) for s in shape) + ")"
