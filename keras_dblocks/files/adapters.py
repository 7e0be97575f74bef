"""Quantization and LoRA matrices of a model's layers in its saved config.

Keras saves the dtype policies of a model's own layers, but not those of the
layers nested in them. A model therefore records quantized and adapted layers
in its build config, as `{"adapters": quantization_config(model)}`. When it is
loaded, `apply_quantization(model, config["adapters"])` restores them after the
build and before the weights are loaded.
"""

import keras

from keras_dblocks import compat

MODES = ("int8", "int4", "float8")  # the others need data to calibrate


def quantization_config(model):
    """Config of the quantized layers and of the layers with LoRA matrices.

    Args:
        model: built `keras.Model`.

    Returns:
        List of JSON-compatible dicts for `apply_quantization`. It is empty
        for a model that is neither quantized nor adapted.

    Raises:
        ValueError: for a quantization that cannot be repeated without data.
    """
    result = []
    for position, layer in enumerate(compat.sublayers(model)):
        mode = layer.quantization_mode
        rank = (
            layer.lora_rank if getattr(layer, "lora_enabled", False) else None
        )
        if mode is None and rank is None:
            continue
        if mode not in (None, *MODES):
            raise ValueError(
                f"A saved model's quantization must be one of {MODES}. "
                f"Received: {mode!r} of layer {layer.path}. "
                "Save the model before it is quantized."
            )
        quantization = getattr(layer, "quantization_config", None)
        result.append(
            {
                "position": position,
                "class_name": type(layer).__name__,
                "mode": mode,
                "quantization": keras.saving.serialize_keras_object(
                    quantization
                ),
                "lora_rank": rank,
                "lora_alpha": layer.lora_alpha if rank else None,
            }
        )
    return result


def apply_quantization(model, config):
    """Quantizes and adapts the layers that `quantization_config` names.

    The weights must be loaded afterwards. Keras saves the product of the LoRA
    matrices as part of the kernel and loads both matrices as zeros, so `fit`
    calls `reset_lora`, which makes them trainable again.

    Args:
        model: built `keras.Model` of the same architecture, or one block.
        config: what `quantization_config` returned, or None for no change.

    Raises:
        ValueError: if the model's layers do not match `config`. No layer is
            changed in that case.
    """
    if not config:
        return
    layers = dict(enumerate(compat.sublayers(model)))
    for entry in config:
        layer = layers.get(entry["position"])
        if type(layer).__name__ != entry["class_name"]:
            raise ValueError(
                "The quantized layers must be those of the saved model, with "
                f"a {entry['class_name']} at place {entry['position']}. "
                f"Received: a {type(layer).__name__}. "
                "Build the model with the settings of the file."
            )
    for entry in config:
        layer = layers[entry["position"]]
        if entry["mode"] is not None:
            quantization = keras.saving.deserialize_keras_object(
                entry["quantization"]
            )
            layer.quantize(entry["mode"], config=quantization)
        if entry["lora_rank"] is not None:
            layer.enable_lora(entry["lora_rank"], entry["lora_alpha"])
    compat.layers_were_replaced(model)


def reset_lora(model):
    """Draws the first LoRA matrix of a layer anew if both matrices are zero.

    The predictions stay the same. Without this, neither matrix would have a
    gradient after a model was loaded.
    """
    for layer in compat.sublayers(model):
        if not getattr(layer, "lora_enabled", False):
            continue
        names = ("lora_kernel", "lora_embeddings")
        (name,) = (n for n in names if hasattr(layer, f"{n}_a"))
        first, second = (getattr(layer, f"{name}_{part}") for part in "ab")
        if not (keras.ops.any(first.value) or keras.ops.any(second.value)):
            first.assign(keras.initializers.HeUniform()(first.shape))
