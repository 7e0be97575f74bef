"""A dense layer whose input is shifted and scaled by the noise level."""

import keras

from keras_dblocks.configuration import Configured
from keras_dblocks.layers.modulation import Modulation, modulate


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ModulatedDense(Configured, keras.layers.Layer):
    """Shifts and scales its input by the noise level, then makes logits.

    Args:
        units: int.
        zero_init: bool. True starts the layer at zero, as the reference does.

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
        self.modulation = Modulation(
            2,  # shift and scale
            # The denoised signal has standard deviation sigma_data = 0.5, so
            # a scale of 1 + 1 gives the classifier an input of unit variance.
            ones=() if self.zero_init else (1,),
            silu="after",
            dtype=self.dtype_policy,
            name="modulation",
        )
        self.dense = keras.layers.Dense(
            self.units,
            kernel_initializer="zeros" if self.zero_init else "glorot_uniform",
            dtype=self.dtype_policy,
            name="dense",
        )
        self.modulation.build(noise_shape, denoised_shape)
        self.dense.build(denoised_shape)

    def call(self, denoised, noise):
        shift, scale = self.modulation(noise, denoised)  # each (B, D)
        return self.dense(modulate(denoised, shift, scale))  # (B, units)

    def compute_output_shape(self, denoised_shape, noise_shape):
        return (denoised_shape[0], self.units)
