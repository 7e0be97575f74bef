"""Loads the published PyTorch weights into our layers."""

import numpy as np


def load_reference_weights(model, arrays):
    """Copies a PyTorch state dict into a `ViT` or its end-to-end twin.

    Args:
        model: `ViT`, or the model `ViT.end_to_end` makes.
        arrays: dict of numpy arrays under the reference's parameter names
            (`vit.encoder.layer.0...`, `classifier.weight`), in torch layout.
            A twin takes the names of HuggingFace's
            `ViTForImageClassification`.

    Raises:
        ValueError: if a tensor is missing or its size does not fit; the model
            is then untouched.
    """
    if hasattr(model, "blocks"):
        if not model.built:
            model.build()
        # Shared parts come up once per block.
        pairs = [p for b in model.blocks for p in _pairs_of_block(b)]
    else:
        pairs = _pairs_of_twin(model)
    values = []
    for variable, name, layout in pairs:
        if name not in arrays:
            raise ValueError(
                f"The state dict must hold {name!r}. "
                f"Received: {len(arrays)} tensors without it. "
                "Pass the whole state dict, under the reference's names."
            )
        value = layout(np.asarray(arrays[name]), variable.shape)
        if tuple(value.shape) != tuple(variable.shape):
            raise ValueError(
                f"{name!r} must have shape {tuple(variable.shape)} here. "
                f"Received: {tuple(value.shape)}. "
                "Build the model with the sizes of the weights."
            )
        values.append((variable, value))
    for variable, value in values:
        variable.assign(value)


def _as_is(array, shape):
    return array


def _transpose(array, shape):
    return array.T  # torch Linear (out, in) to Keras (in, out)


def _convolution(array, shape):
    return array.transpose(2, 3, 1, 0)  # (O, I, h, w) to (h, w, I, O)


def _flat(array, shape):
    return array.reshape(shape) if array.size == np.prod(shape) else array


def _dense(layer, name):
    return [
        (layer.kernel, f"{name}.weight", _transpose),
        (layer.bias, f"{name}.bias", _as_is),
    ]


def _norm(layer, name):
    return [
        (layer.gamma, f"{name}.weight", _as_is),
        (layer.beta, f"{name}.bias", _as_is),
    ]


def _transformer_layer(layer, name):
    pairs = []
    for part in ("query", "key", "value"):
        dense = getattr(layer.attention, f"{part}_dense")
        pairs += _dense(dense, f"{name}.attention.attention.{part}")
    pairs += _dense(layer.attention_output, f"{name}.attention.output.dense")
    pairs += _dense(layer.intermediate, f"{name}.intermediate.dense")
    pairs += _dense(layer.output_dense, f"{name}.output.dense")
    pairs += _norm(layer.attention_norm, f"{name}.layernorm_before")
    pairs += _norm(layer.mlp_norm, f"{name}.layernorm_after")
    if layer.conditioned:
        pairs += _dense(
            layer.modulation_dense, f"{name}.adaLN_modulation.linear"
        )
    return pairs


def _stem(stem):
    patches = stem.patches
    name = "vit.embeddings.patch_embeddings.projection"
    return [
        (stem.positions, "vit.embeddings.position_embeddings", _as_is),
        (patches.kernel, f"{name}.weight", _convolution),
        (patches.bias, f"{name}.bias", _as_is),
    ]


def _pairs_of_block(block):
    pairs = _stem(block.stem)
    name = "vit.embeddings.label_embeddings.weight"
    pairs.append((block.target.table, name, _as_is))
    embedding = block.noise_embedding
    pairs += _dense(embedding.hidden_dense, "vit.time_embedder.mlp.0")
    pairs += _dense(embedding.output_dense, "vit.time_embedder.mlp.2")
    layers = block.network().partition.layers_of(block.index)
    for index, layer in zip(layers, block.residual_layers, strict=True):
        pairs += _transformer_layer(layer, f"vit.encoder.layer.{index}")
    pairs += _norm(block.readout.norm, "vit.layernorm")
    pairs += _dense(block.head.modulation, "adaLN_modulation.linear")
    return pairs + _dense(block.head.dense, "classifier")


def reference_names(block):
    """By `id` of a block's variable: its torch name and change of layout."""
    return {
        id(variable): (name, layout)
        for variable, name, layout in _pairs_of_block(block)
    }


def _pairs_of_twin(model):
    token = model.get_layer("class_token").token
    pairs = [(token, "vit.embeddings.cls_token", _flat)]
    pairs += _stem(model.get_layer("stem"))
    index = 0
    names = {layer.name for layer in model.layers}
    while f"layer_{index}" in names:
        layer = model.get_layer(f"layer_{index}")
        pairs += _transformer_layer(layer, f"vit.encoder.layer.{index}")
        index += 1
    pairs += _norm(model.get_layer("readout").norm, "vit.layernorm")
    pairs += _dense(model.get_layer("classifier"), "classifier")
    return pairs
