"""Layer norm or root mean square norm, modulated by the noise level."""

import keras

from keras_dblocks.layers.modulation import modulate
from keras_dblocks.rematerialization import recomputed_in_training


@keras.saving.register_keras_serializable(package="keras_dblocks")
class AdaptiveNormalization(keras.layers.Layer):
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

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), adaptive layer norm
    """

    def __init__(
        self, kind, epsilon=1e-6, affine=True, recompute=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.kind = kind
        self.epsilon = epsilon
        self.affine = affine
        self.recompute = recompute

    def build(self, x_shape):
        kwargs = {"epsilon": self.epsilon, "dtype": self.dtype_policy}
        if self.kind == "rms":
            self.norm = keras.layers.RMSNormalization(name="norm", **kwargs)
        else:
            self.norm = keras.layers.LayerNormalization(
                center=self.affine, scale=self.affine, name="norm", **kwargs
            )
        self.norm.build(x_shape)

    @recomputed_in_training
    def call(self, x, shift=None, scale=None, training=None):
        x = self.norm(x)
        return x if shift is None else modulate(x, shift, scale)

    def compute_output_shape(self, x_shape, shift_shape=None, scale_shape=None):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "epsilon": self.epsilon,
            "affine": self.affine,
            "recompute": self.recompute,
        }
