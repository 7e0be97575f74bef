"""A dense layer whose input is shifted and scaled by the noise level."""

import keras
import numpy as np
from keras import ops

from keras_dblocks.layers.transformer_layer import SILU_IS_ONE


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ModulatedDense(keras.layers.Layer):
    """Shift and scale by the noise level, then logits.

    Args:
        units: int.
        zero_init: bool. The reference starts the classifier at zero.

    Call arguments:
        denoised: tensor `(B, D)`.
        noise: tensor `(B, noise_dim)`.

    Returns:
        Tensor `(B, units)`.
    """

    def __init__(self, units, zero_init=False, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.zero_init = zero_init

    def build(self, denoised_shape, noise_shape):
        self.modulation = keras.layers.Dense(
            2 * denoised_shape[-1],
            kernel_initializer="zeros",
            bias_initializer=self._modulation_bias(denoised_shape[-1]),
            dtype=self.dtype_policy,
            name="modulation",
        )
        self.dense = keras.layers.Dense(
            self.units,
            kernel_initializer="zeros" if self.zero_init else "glorot_uniform",
            dtype=self.dtype_policy,
            name="dense",
        )
        self.modulation.build(noise_shape)
        self.dense.build(denoised_shape)

    def _modulation_bias(self, dim):
        if self.zero_init:
            return "zeros"
        # The denoised signal has standard deviation sigma_data = 0.5; a scale
        # of 1 + 1 gives the classifier an input of unit variance.
        bias = np.repeat([0.0, SILU_IS_ONE], dim).astype("float32")
        return keras.initializers.Constant(bias)

    def call(self, denoised, noise):
        maps = ops.silu(self.modulation(noise))
        shift, scale = ops.split(maps, 2, axis=-1)
        return self.dense(denoised * (1 + scale) + shift)

    def compute_output_shape(self, denoised_shape, noise_shape):
        return (denoised_shape[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "zero_init": self.zero_init,
        }
