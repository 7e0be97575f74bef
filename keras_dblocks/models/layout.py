"""How weights are divided between devices (`keras.distribution`, on JAX)."""

import keras

# Of a transformer's layer: what widens its input, and what narrows it again.
# A moving average has the path of what it follows, with dashes.
LAYER = r".*(layer|prelude|core|coda)_\d+[/-](attention[/-])?"
WIDENS = (
    rf"{LAYER}(query|key|value|intermediate|gate|up|fc|modulation[/-]dense)"
    r"|.*(readout|head)[/-]modulation[/-]dense|.*state_input[/-]projection"
)
NARROWS = rf"{LAYER}(attention_output([/-]dense)?|output|down)"


def layout_map(mesh, axis="model"):
    """Layouts of the weights of every system, for `ModelParallel`.

    The kernels of the residual layers are divided: those that widen by their
    outputs, those that narrow by their inputs, so that the devices exchange
    one sum for each of the two halves of a layer. So is what modulates after
    them. Embeddings, norms, logits and what embeds the noise level are on
    every device. A weight that does not divide
    evenly is refused by Keras.

    Args:
        mesh: `keras.distribution.DeviceMesh` with the axis.
        axis: str, the axis along which weights are divided.

    Returns:
        `keras.distribution.LayoutMap`.

    Raises:
        ValueError: if the mesh has no such axis.
    """
    if axis not in mesh.axis_names:
        raise ValueError(
            "Weights are divided along an axis of the mesh. Received: "
            f"axis={axis!r} of a mesh with {mesh.axis_names}. Name one of "
            "these."
        )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[rf"({WIDENS})[/-]kernel"] = (None, axis)
    layouts[rf"({WIDENS})[/-]bias"] = (axis,)
    layouts[rf"{NARROWS}[/-]kernel"] = (axis, None)
    return layouts
