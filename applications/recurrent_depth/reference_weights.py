"""Loads Huginn's PyTorch weights into our twin."""

import numpy as np
from keras import ops

from keras_dblocks.applications.torch_weights import as_is, assign, transpose

from .twin import Huginn


def load_reference_weights(model, arrays):
    """Copies a PyTorch state dict into a `Huginn`.

    Args:
        model: `Huginn`, which `RecurrentDepth.end_to_end` makes, of the same
            sizes. Its row of the beginning, which the reference has not,
            stays as it is; `model.following(tokens)` needs none.
        arrays: dict of numpy arrays under the names of `RavenForCausalLM`
            (`transformer.prelude.0.attn.Wqkv.weight`, ...), in torch layout.

    Raises:
        ValueError: if a tensor is missing or its size does not fit, or the
            head is not the embedding; the model is then untouched.
    """
    if not isinstance(model, Huginn):
        raise ValueError(
            "Huginn's weights are those of the end-to-end model. "
            f"Received: a {type(model).__name__}. "
            "Pass what `RecurrentDepth.end_to_end` makes."
        )
    if not model.built:
        model.build()
    table = model.embedding.embeddings
    name = "transformer.wte.weight"
    head = arrays.get("lm_head.weight", arrays.get(name))
    if not np.array_equal(head, arrays.get(name)):
        raise ValueError(
            f"'lm_head.weight' must be {name!r}: the head is tied. "
            "Received: other values. Train with `tie_embeddings`."
        )
    pairs = [
        (table, name, _beside(table)),
        (model.adapter.kernel, "transformer.adapter.weight", transpose),
        (model.norm.scale, "transformer.ln_f.weight", as_is),
    ]
    for part, layers in (
        ("prelude", model.prelude),
        ("core_block", model.core),
        ("coda", model.coda),
    ):
        for index, layer in enumerate(layers):
            pairs += layer_pairs(layer, f"transformer.{part}.{index}")
    assign(pairs, arrays)


def layer_pairs(layer, name):
    """Pairs of a `SandwichLayer`, see `torch_weights.assign`."""
    attention = layer.attention
    dense = (
        attention.query_dense,
        attention.key_dense,
        attention.value_dense,
    )
    kernels, biases = f"{name}.attn.Wqkv.weight", f"{name}.attn.qk_bias"
    return [
        *(
            (part.kernel, kernels, _part_of(i, 3, layer.num_heads, i < 2))
            for i, part in enumerate(dense)
        ),
        *(
            (part.bias, biases, _part_of(i, 2, layer.num_heads, True))
            for i, part in enumerate(dense[:2])
        ),
        (layer.attention_output.kernel, f"{name}.attn.proj.weight", transpose),
        (layer.fc.kernel, f"{name}.mlp.fc.weight", transpose),
        (layer.down.kernel, f"{name}.mlp.proj.weight", transpose),
        *(
            (getattr(layer, norm).scale, f"{name}.{norm}.weight", as_is)
            for norm in ("norm_1", "norm_2", "norm_3", "norm_4")
        ),
    ]


def _part_of(part, of, heads, rotary):
    def layout(array, shape):
        dim = shape[-1]
        if array.size != of * np.prod(shape):
            return array[None]  # fits nothing, and is refused
        rows = array.reshape(of, heads, dim // heads, -1)[part]
        if rotary:
            # The reference turns pairs (2 j, 2 j + 1), ours (j, j + d / 2).
            rows = np.concatenate([rows[:, ::2], rows[:, 1::2]], 1)
        return rows.reshape(dim, -1).T.reshape(shape)

    return layout


def _beside(table):
    # Ours ends with the beginning.
    def layout(array, shape):
        fits = array.shape == (shape[0] - 1, shape[1])
        last = ops.convert_to_numpy(table)[-1:]
        return np.concatenate([array, last]) if fits else array

    return layout
