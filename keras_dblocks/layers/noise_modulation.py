"""Conditions any residual layer on the noise level."""

from typing import Any

import keras

from keras_dblocks.configuration import Configured
from keras_dblocks.layers.context import NAMES, accepts, call_part
from keras_dblocks.layers.modulation import Modulation, modulate


@keras.saving.register_keras_serializable(package="keras_dblocks")
class NoiseModulation(Configured, keras.layers.Layer):
    """Scales and shifts a layer's input by functions of the noise level.

    `DiffusionBlocks` wraps every residual layer whose `call` takes no `noise`.
    Both maps start at zero, so the wrapped layer at first computes what it
    would without the wrapper.

    Args:
        layer: `keras.layers.Layer` from `(B, ..., D)` to the same shape. It
            includes its residual connection.

    Call arguments:
        x: tensor `(B, ..., D)`.
        noise: tensor `(B, noise_dim)`, the embedded noise level.

    Example:

    ```python
    layer = NoiseModulation(TransformerLayer(2, 16, conditioned=False))
    layer(np.ones((2, 5, 8)), noise=np.zeros((2, 16)))  # (2, 5, 8)
    ```

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), adaptive layer norm
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, x_shape, noise_shape):
        self.modulation = Modulation(
            2, dtype=self.dtype_policy, name="modulation"
        )
        self.modulation.build(noise_shape, x_shape)
        if not self.layer.built and self._of_context() <= {"training"}:
            self.layer.build(x_shape)  # one that sees more: at its first call

    def _of_context(self):
        """Names of what the wrapped layer asks for beside its input."""
        return {name for name in NAMES if accepts(self.layer, name)}

    @property
    def context_names(self) -> set[str]:
        """What `call` is to be given by name, see `layers.context`."""
        return {"noise", *self._of_context()}

    def call(self, x, noise, signal=None, condition=None, training=None):
        x = modulate(x, *self.modulation(noise, x))
        context = {"signal": signal, "condition": condition}
        return call_part(self.layer, x, {**context, "training": training})

    def compute_output_spec(self, x, noise, **context):
        # By a symbolic call, since the wrapped layer's `call` may take more
        # than its `compute_output_shape` does.
        return self.call(x, noise, **context)

    def compute_output_shape(self, x_shape, noise_shape):
        return self.layer.compute_output_shape(x_shape)
