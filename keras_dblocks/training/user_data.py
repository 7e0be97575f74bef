"""Brings what users pass as data into arrays."""

import numpy as np
from keras import tree


def as_arrays(data):
    """Data frames, series and lists of numbers as numpy arrays.

    Args:
        data: array, pandas object, list of numbers (nested or not), a dict,
            tuple or list of these, or None. Anything else, such as a dataset
            or a generator, is returned as it is.

    Returns:
        A tree of arrays, or `data` itself.
    """
    if isinstance(data, dict):
        return {name: as_arrays(value) for name, value in data.items()}
    if isinstance(data, list) and data and _holds_numbers(data):
        return _from_list(data)
    if isinstance(data, (list, tuple)):
        return type(data)(as_arrays(value) for value in data)
    if hasattr(data, "to_numpy") and hasattr(data, "index"):  # pandas
        return data.to_numpy()
    return data


def is_arrays(data):
    """True for an array and for a tree of arrays, False for a dataset."""
    leaves = [leaf for leaf in tree.flatten(data) if leaf is not None]
    return bool(leaves) and all(_is_array(leaf) for leaf in leaves)


def _is_array(value):
    return hasattr(value, "shape") and hasattr(value, "__getitem__")


def _holds_numbers(data):
    while isinstance(data, (list, tuple)) and len(data):
        data = data[0]
    return isinstance(data, (bool, int, float, np.generic))


def _from_list(data):
    try:
        return np.asarray(data)
    except ValueError as error:
        raise ValueError(
            "A list of numbers must be an array's rows, all of one length. "
            f"Received: {len(data)} rows of unequal lengths. "
            "Pad or cut them, and pass `np.array(rows)`."
        ) from error
