"""Loads HuggingFace's Llama weights into our causal language model."""

import numpy as np
from keras import ops

from keras_dblocks.applications.torch_weights import as_is, assign, transpose

from .twin import CausalLM


def load_reference_weights(model, arrays):
    """Copies a PyTorch state dict into a `CausalLM`.

    Args:
        model: `CausalLM` of the same sizes, as `ARTransformer.end_to_end`
            makes it. Its row of the start token, which the reference does not
            have, is kept; `model.following(tokens)` does not use it.
        arrays: dict of numpy arrays under the names of HuggingFace's
            `LlamaForCausalLM` (`model.layers.0.self_attn.q_proj.weight`,
            ..., `lm_head.weight`), in torch layout.

    Raises:
        ValueError: if a tensor is missing or its size does not fit. The model
            is then unchanged.
    """
    if not isinstance(model, CausalLM):
        raise ValueError(
            "Llama's weights are those of an ordinary causal model. "
            f"Received: a {type(model).__name__}. "
            "Pass what `ARTransformer.end_to_end` makes."
        )
    if not model.built:
        model.build()
    table = model.embedding.embeddings
    pairs = [
        (table, "model.embed_tokens.weight", _beside(table)),
        (model.norm.scale, "model.norm.weight", as_is),
        (model.head.kernel, "lm_head.weight", transpose),
    ]
    for index, layer in enumerate(model.residual_layers):
        pairs += layer_pairs(layer, f"model.layers.{index}")
    assign(pairs, arrays)


def layer_pairs(layer, name):
    """Pairs of a `LlamaLayer` for `torch_weights.assign`."""
    attention = layer.attention
    kernels = {
        "self_attn.q_proj": attention.query_dense,
        "self_attn.k_proj": attention.key_dense,
        "self_attn.v_proj": attention.value_dense,
        "self_attn.o_proj": layer.attention_output,
        "mlp.gate_proj": layer.gate,
        "mlp.up_proj": layer.up,
        "mlp.down_proj": layer.down,
    }
    attention_norm = f"{name}.input_layernorm.weight"
    mlp_norm = f"{name}.post_attention_layernorm.weight"
    return [
        (layer.attention_norm.gamma, attention_norm, as_is),
        (layer.mlp_norm.gamma, mlp_norm, as_is),
        *(
            (dense.kernel, f"{name}.{key}.weight", transpose)
            for key, dense in kernels.items()
        ),
    ]


def _beside(table):
    # Our rows are scaled up at look-up, and the last one is the start token.
    def layout(array, shape):
        rows = array / table.shape[-1] ** 0.5
        fits = rows.shape == (shape[0] - 1, shape[1])
        last = ops.convert_to_numpy(table)[-1:]
        return np.concatenate([rows, last]) if fits else rows

    return layout
