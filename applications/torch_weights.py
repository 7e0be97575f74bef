"""Copies published PyTorch weights to Keras variables: all of them, or none."""

import numpy as np


def assign(pairs, arrays):
    """Assigns arrays of a state dict to variables.

    Args:
        pairs: list of `(variable, name, layout)`. The function
            `layout(array, shape)` converts an array from the layout of PyTorch
            to that of Keras, where `shape` is the shape of the variable.
        arrays: dict of numpy arrays by name, in the layout of PyTorch.

    Raises:
        ValueError: if a tensor is missing or its size does not fit. No
            variable is changed in this case.
    """
    values = []
    for variable, name, layout in pairs:
        if name not in arrays:
            raise ValueError(
                f"The state dict must hold {name!r}. "
                f"Received: {len(arrays)} tensors without it. "
                "Pass the whole state dict, under the reference's names."
            )
        value = layout(np.asarray(arrays[name]), tuple(variable.shape))
        if tuple(value.shape) != tuple(variable.shape):
            raise ValueError(
                f"{name!r} must have shape {tuple(variable.shape)} here. "
                f"Received: {tuple(value.shape)}. "
                "Build the model with the sizes of the weights."
            )
        values.append((variable, value))
    for variable, value in values:
        variable.assign(value)


def as_is(array, shape):
    """Layout of vectors and tables, which is the same."""
    return array


def transpose(array, shape):
    """Layout of a linear layer: `(out, in)` to `(in, out)`."""
    return array.T


def patches(side):
    """A convolution `(O, I, h, w)` to `(h w I, O)`, h = w = `side`."""

    def layout(array, shape):
        if array.shape[2:] != (side, side):
            return array  # fits nothing, and is refused
        return array.transpose(2, 3, 1, 0).reshape(-1, len(array))

    return layout


def reshaped(array, shape):
    """Layout of an array that has other axes of length 1 in PyTorch."""
    return array.reshape(shape) if array.size == np.prod(shape) else array


def split_linear(part, num_parts):
    """Layout of one part of a linear layer that computes several.

    The rows of the PyTorch array are those of part 0, then those of part 1, and
    so on, for instance query, key and value.
    """

    def layout(array, shape):
        return np.split(array, num_parts)[part].T

    return layout


def interleaved(part, num_parts, num_heads, rotary=True):
    """Layout of one part of the projections of a rotary attention.

    As `split_linear`, with the features of each head in another order: the
    reference rotates features `(2 j, 2 j + 1)` as a pair, `layers.rotary`
    rotates `(j, j + d / 2)`, where d is the number of features of a head.
    """

    def layout(array, shape):
        if array.size != num_parts * np.prod(shape):
            return array[None]  # a shape that `assign` rejects
        head_dim = shape[-1] // num_heads
        heads = array.reshape(num_parts, num_heads, head_dim, -1)[part]
        if rotary:
            heads = np.concatenate([heads[:, ::2], heads[:, 1::2]], 1)
        return heads.reshape(shape[-1], -1).T.reshape(shape)

    return layout


def without_last_row(table):
    """Layout of a table whose last row the reference does not have.

    The last row of `table` keeps its value.
    """

    def layout(array, shape):
        last = np.asarray(table)[len(array) :]
        fits = len(last) == 1 and array.shape[1:] == last.shape[1:]
        return np.concatenate([array, last]) if fits else array

    return layout


def dense(layer, name):
    """Pairs for `assign` of a `keras.layers.Dense`."""
    return [
        (layer.kernel, f"{name}.weight", transpose),
        (layer.bias, f"{name}.bias", as_is),
    ]


def norm(layer, name):
    """Pairs for `assign` of a `keras.layers.LayerNormalization`."""
    return [
        (layer.gamma, f"{name}.weight", as_is),
        (layer.beta, f"{name}.bias", as_is),
    ]


def patch_embedding(layer, name):
    """Pairs of a `PatchEmbedding`."""
    return [
        (layer.dense.kernel, f"{name}.weight", patches(layer.patch_size)),
        (layer.dense.bias, f"{name}.bias", as_is),
    ]
