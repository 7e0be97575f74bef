"""Loads Huginn's PyTorch weights into our twin."""

import numpy as np

from keras_dblocks.applications.torch_weights import (
    as_is,
    assign,
    interleaved,
    transpose,
    without_last_row,
)

from .model import Huginn


def load_reference_weights(model, arrays):
    """Copies a PyTorch state dict into a `Huginn`.

    Args:
        model: `Huginn` of the same sizes, as `RecurrentDepth.end_to_end`
            makes it. Its row of the start token, which the reference does not
            have, is kept; `model.following(tokens)` does not use it.
        arrays: dict of numpy arrays under the names of `RavenForCausalLM`
            (`transformer.prelude.0.attn.Wqkv.weight`, ...), in torch layout.

    Raises:
        ValueError: if a tensor is missing or its size does not fit, or if the
            head is not the embedding. The model is then unchanged.
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
        (table, name, without_last_row(table)),
        (model.adapter.kernel, "transformer.adapter.weight", transpose),
        (model.norm.scale, "transformer.ln_f.weight", as_is),
    ]
    parts = {"prelude": model.prelude, "core_block": model.core}
    for part, layers in {**parts, "coda": model.coda}.items():
        for index, layer in enumerate(layers):
            pairs += layer_pairs(layer, f"transformer.{part}.{index}")
    assign(pairs, arrays)


def layer_pairs(layer, name):
    """Pairs of a `SandwichLayer` for `torch_weights.assign`."""
    attention, heads = layer.attention, layer.num_heads
    query, key = attention.query_dense, attention.key_dense
    value = attention.value_dense
    kernels, biases = f"{name}.attn.Wqkv.weight", f"{name}.attn.qk_bias"
    return [
        (query.kernel, kernels, interleaved(0, 3, heads)),
        (key.kernel, kernels, interleaved(1, 3, heads)),
        (value.kernel, kernels, interleaved(2, 3, heads, rotary=False)),
        (query.bias, biases, interleaved(0, 2, heads)),
        (key.bias, biases, interleaved(1, 2, heads)),
        (layer.attention_output.kernel, f"{name}.attn.proj.weight", transpose),
        (layer.fc.kernel, f"{name}.mlp.fc.weight", transpose),
        (layer.down.kernel, f"{name}.mlp.proj.weight", transpose),
        *(
            (
                getattr(layer, f"norm_{i}").gamma,
                f"{name}.norm_{i}.weight",
                as_is,
            )
            for i in (1, 2, 3, 4)
        ),
    ]
