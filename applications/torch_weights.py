"""Published PyTorch weights into Keras variables: all of them, or none."""

import numpy as np


def assign(pairs, arrays):
    """Assigns arrays of a state dict to variables.

    Args:
        pairs: list of `(variable, name, layout)`; `layout(array, shape)`
            gives the array in Keras's layout.
        arrays: dict of numpy arrays in torch layout, by name.

    Raises:
        ValueError: if a tensor is missing or its size does not fit; no
            variable is then touched.
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
    """Vectors and tables."""
    return array


def transpose(array, shape):
    """torch Linear `(out, in)` to Keras `(in, out)`."""
    return array.T


def patches(side):
    """A convolution `(O, I, h, w)` to `(h w I, O)`, h = w = `side`."""

    def layout(array, shape):
        if array.shape[2:] != (side, side):
            return array  # fits nothing, and is refused
        return array.transpose(2, 3, 1, 0).reshape(-1, len(array))

    return layout


def flat(array, shape):
    """The same numbers in another shape, where they are as many."""
    return array.reshape(shape) if array.size == np.prod(shape) else array


def rows(part, of):
    """Part `part` of a linear layer that holds `of` of them, row after row."""

    def layout(array, shape):
        return np.split(array, of)[part].T

    return layout


def interleaved(part, of, heads, rotary=True):
    """`rows` of heads `(heads, d)`, for an attention with rotary positions.

    The reference turns features `(2 j, 2 j + 1)` as a pair, `layers.rotary`
    turns `(j, j + d / 2)`.
    """

    def layout(array, shape):
        if array.size != of * np.prod(shape):
            return array[None]  # fits nothing, and is refused
        each = array.reshape(of, heads, shape[-1] // heads, -1)[part]
        if rotary:
            each = np.concatenate([each[:, ::2], each[:, 1::2]], 1)
        return each.reshape(shape[-1], -1).T.reshape(shape)

    return layout


def above(table):
    """Rows of a table that goes on with rows the reference has not."""

    def layout(array, shape):
        rest = np.asarray(table)[len(array) :]
        fits = len(rest) == 1 and array.shape[1:] == rest.shape[1:]
        return np.concatenate([array, rest]) if fits else array

    return layout


def dense(layer, name):
    """Pairs of a `keras.layers.Dense`."""
    return [
        (layer.kernel, f"{name}.weight", transpose),
        (layer.bias, f"{name}.bias", as_is),
    ]


def norm(layer, name):
    """Pairs of a `keras.layers.LayerNormalization`."""
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
