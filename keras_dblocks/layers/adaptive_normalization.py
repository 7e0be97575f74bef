"""Layer norm or root mean square norm, modulated by the noise level."""

import functools
from typing import Any

import keras
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.layers.modulation import modulate
from keras_dblocks.rematerialization import as_tensor


@keras.saving.register_keras_serializable(package="keras_dblocks")
class AdaptiveNormalization(Configured, keras.layers.Layer):
    """A norm over the last axis, then a shift and a scale if they are given.

    Args:
        kind: `"layer"` or `"rms"`.
        epsilon: float. Defaults to `1e-6`.
        affine: bool. Whether a layer norm has a learned scale and shift. A
            root mean square norm always has a learned scale. Defaults to
            True.
        recompute: bool. Compute the norm again in the backward pass, so that
            a training step keeps only its input. Defaults to False.

    Call arguments:
        x: tensor `(B, ..., D)`.
        shift, scale: tensors that broadcast to `x`, or both None.

    Returns:
        Tensor of the shape of `x`.

    Example:

    ```python
    norm = AdaptiveNormalization("rms")
    norm(np.ones((2, 5, 8)), shift=np.zeros(8), scale=np.ones(8))
    ```

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), adaptive layer norm
    """

    def __init__(
        self,
        kind: str,
        epsilon: float = 1e-6,
        affine: bool = True,
        recompute: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.epsilon = epsilon
        self.affine = affine
        self.recompute = recompute

    def build(self, x_shape):
        # The weights stay float32, as what is computed from them does.
        weight = {"shape": (x_shape[-1],), "autocast": False}
        self.gamma = self.beta = None
        if self.kind == "rms" or self.affine:
            self.gamma = self.add_weight(
                initializer="ones", name="gamma", **weight
            )
        if self.kind == "layer" and self.affine:
            self.beta = self.add_weight(
                initializer="zeros", name="beta", **weight
            )

    def call(self, x, shift=None, scale=None, training=None):
        maps = [] if shift is None else [shift, scale]
        weights = [w for w in (self.gamma, self.beta) if w is not None]
        function = functools.partial(self._modulated_norm, len(weights))
        if training and self.recompute:
            function = keras.remat(function)
        return function(x, *map(as_tensor, weights), *maps)

    def _modulated_norm(self, num_weights, x, *tensors):
        weights, maps = tensors[:num_weights], tensors[num_weights:]
        norms = {"rms": ops.rms_normalization, "layer": ops.layer_normalization}
        norm = functools.partial(norms[self.kind], epsilon=self.epsilon)
        x = norm(x, *weights)
        return modulate(x, *maps) if maps else x

    def compute_output_shape(self, x_shape, shift_shape=None, scale_shape=None):
        return x_shape
