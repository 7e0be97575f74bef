"""Loads facebookresearch/DiT's PyTorch weights into our layers."""

import numpy as np

from keras_dblocks.applications.torch_weights import (
    as_is,
    assign,
    dense,
    patch_embedding,
    split_linear,
)


def load_reference_weights(model, arrays):
    """Copies a PyTorch state dict into a `DiT`.

    Args:
        model: `DiT` of the same sizes, any number of blocks.
        arrays: dict of numpy arrays under the reference's parameter names
            (`blocks.0.attn.qkv.weight`, ...), in torch layout. Weights of
            predicted variances (`learn_sigma`) are dropped.

    Raises:
        ValueError: if a tensor is missing or its size does not fit. The model
            is then unchanged.
    """
    if not model.built:
        model.build()
    positions = np.asarray(arrays.get("pos_embed", np.zeros((1, 1, 1))))
    ours = model.blocks[0].stem.positions
    if positions.shape[1:] != ours.shape or not np.allclose(
        positions[0], ours, atol=1e-5
    ):
        raise ValueError(
            f"'pos_embed' must hold the fixed positions {ours.shape} of DiT. "
            f"Received: {positions.shape}, or other values. "
            "Build the model with the sizes of the weights."
        )
    # Shared parts are assigned once for each block.
    assign([p for b in model.blocks for p in _pairs_of_block(b)], arrays)


def reference_names(block):
    """Dict from a variable's `id` to its torch name and change of layout."""
    return {
        id(variable): (name, layout)
        for variable, name, layout in _pairs_of_block(block)
    }


def _pairs_of_block(block):
    channels = block.target.signal_shape[-1]
    noise = block.noise_embedding.noise
    classes = block.noise_embedding.classes
    pairs = [
        *patch_embedding(block.stem.patches, "x_embedder.proj"),
        (classes.embeddings, "y_embedder.embedding_table.weight", as_is),
    ]
    pairs += dense(noise.hidden_dense, "t_embedder.mlp.0")
    pairs += dense(noise.output_dense, "t_embedder.mlp.2")
    layers = block.method.partition.layers_of(block.index)
    for index, layer in zip(layers, block.residual_layers, strict=True):
        pairs += _transformer_layer(layer, f"blocks.{index}")
    readout = block.readout
    pairs += dense(readout.modulation.dense, "final_layer.adaLN_modulation.1")
    linear, name = readout.linear, "final_layer.linear"
    return [
        *pairs,
        (linear.kernel, f"{name}.weight", _means(channels)),
        (linear.bias, f"{name}.bias", _means(channels)),
    ]


def _transformer_layer(layer, name):
    pairs = []
    for i, part in enumerate(("query", "key", "value")):
        projection = getattr(layer.attention, f"{part}_dense")
        for variable, _, _ in dense(projection, ""):
            kind = "weight" if len(variable.shape) == 2 else "bias"
            pairs.append(
                (variable, f"{name}.attn.qkv.{kind}", split_linear(i, 3))
            )
    pairs += dense(layer.attention_output.dense, f"{name}.attn.proj")
    pairs += dense(layer.intermediate, f"{name}.mlp.fc1")
    pairs += dense(layer.output_dense, f"{name}.mlp.fc2")
    modulation = layer.modulation_maps.dense
    return pairs + dense(modulation, f"{name}.adaLN_modulation.1")


def _means(channels):
    def layout(array, shape):
        # Rows are (row, column, channel); the last channels are variances.
        if array.shape[0] == 2 * shape[-1]:
            array = array.reshape(-1, 2 * channels, *array.shape[1:])
            array = array[:, :channels].reshape(-1, *array.shape[2:])
        return array.T

    return layout
