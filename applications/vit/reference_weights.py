"""Loads the published PyTorch weights into our layers."""

from keras_dblocks.applications.torch_weights import (
    as_is,
    assign,
    dense,
    norm,
    patch_embedding,
    reshaped,
)


def load_reference_weights(model, arrays):
    """Copies a PyTorch state dict into a `ViT` or its end-to-end twin.

    Args:
        model: `ViT`, or the model that `ViT.end_to_end` makes.
        arrays: dict of numpy arrays under the reference's parameter names
            (`vit.encoder.layer.0...`, `classifier.weight`), in torch layout.
            A twin takes the names of HuggingFace's
            `ViTForImageClassification`.

    Raises:
        ValueError: if a tensor is missing or its size does not fit. The model
            is then unchanged.
    """
    if hasattr(model, "blocks"):
        if not model.built:
            model.build()
        # Shared parts are assigned once for each block.
        pairs = [p for b in model.blocks for p in _pairs_of_block(b)]
    else:
        pairs = _pairs_of_twin(model)
    assign(pairs, arrays)


def _transformer_layer(layer, name):
    pairs = []
    for part in ("query", "key", "value"):
        projection = getattr(layer.attention, f"{part}_dense")
        pairs += dense(projection, f"{name}.attention.attention.{part}")
    output = layer.attention_output.dense
    pairs += dense(output, f"{name}.attention.output.dense")
    pairs += dense(layer.intermediate, f"{name}.intermediate.dense")
    pairs += dense(layer.output_dense, f"{name}.output.dense")
    pairs += norm(layer.attention_norm, f"{name}.layernorm_before")
    pairs += norm(layer.mlp_norm, f"{name}.layernorm_after")
    if layer.conditioned:
        modulation = layer.modulation_maps.dense
        pairs += dense(modulation, f"{name}.adaLN_modulation.linear")
    return pairs


def _stem(stem):
    name = "vit.embeddings.patch_embeddings.projection"
    return [
        (stem.positions, "vit.embeddings.position_embeddings", as_is),
        *patch_embedding(stem.patches, name),
    ]


def _pairs_of_block(block):
    pairs = _stem(block.stem)
    name = "vit.embeddings.label_embeddings.weight"
    pairs.append((block.target.table, name, as_is))
    embedding = block.noise_embedding
    pairs += dense(embedding.hidden_dense, "vit.time_embedder.mlp.0")
    pairs += dense(embedding.output_dense, "vit.time_embedder.mlp.2")
    layers = block.method.partition.layers_of(block.index)
    for index, layer in zip(layers, block.residual_layers, strict=True):
        pairs += _transformer_layer(layer, f"vit.encoder.layer.{index}")
    pairs += norm(block.readout.norm, "vit.layernorm")
    pairs += dense(block.head.modulation.dense, "adaLN_modulation.linear")
    return pairs + dense(block.head.dense, "classifier")


def reference_names(block):
    """Dict from a variable's `id` to its torch name and change of layout."""
    return {
        id(variable): (name, layout)
        for variable, name, layout in _pairs_of_block(block)
    }


def _pairs_of_twin(model):
    token = model.get_layer("class_token").token
    pairs = [(token, "vit.embeddings.cls_token", reshaped)]
    pairs += _stem(model.get_layer("stem"))
    index = 0
    names = {layer.name for layer in model.layers}
    while f"layer_{index}" in names:
        layer = model.get_layer(f"layer_{index}")
        pairs += _transformer_layer(layer, f"vit.encoder.layer.{index}")
        index += 1
    pairs += norm(model.get_layer("readout").norm, "vit.layernorm")
    pairs += dense(model.get_layer("classifier"), "classifier")
    return pairs
