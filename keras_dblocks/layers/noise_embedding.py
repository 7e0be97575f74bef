"""Embeds the noise level as a vector that conditions every layer."""

import math
from typing import Any

import keras
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured


@keras.saving.register_keras_serializable(package="keras_dblocks")
class NoiseEmbedding(Configured, keras.layers.Layer):
    """Passes sinusoids of the noise level through a two-layer perceptron.

    Args:
        output_dim: int. Width of the result.
        frequencies: int, even. Number of sinusoids. Defaults to `256`.
        max_period: float. Longest period. Defaults to `10000`.
        output_activation: name of the last activation, or None. The
            reference's ViT applies `"silu"` here and again after the linear
            map of each layer; DiT applies it between the two. Defaults to
            `"silu"`.

    Call arguments:
        c_noise: float32 tensor `(B,)`, `ln(sigma) / 4` for Gaussian noise.

    Returns:
        Tensor `(B, output_dim)`.

    Example:

    ```python
    NoiseEmbedding(32)(np.log(np.array([0.5, 80.0])) / 4)  # (2, 32)
    ```

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), Section 3.2
    """

    def __init__(
        self,
        output_dim: int,
        frequencies: int = 256,
        max_period: float = 10000.0,
        output_activation: str | None = "silu",
        **kwargs: Any,
    ) -> None:
        # Without autocast, the level is float32 under every dtype policy.
        super().__init__(autocast=False, **kwargs)
        check_sizes(output_dim=output_dim, frequencies=frequencies)
        self.output_dim = output_dim
        self.frequencies = frequencies
        self.max_period = max_period
        self.output_activation = output_activation

    def build(self, c_noise_shape):
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        self.hidden_dense = keras.layers.Dense(
            self.output_dim,
            activation="silu",
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name="hidden",
        )
        self.output_dense = keras.layers.Dense(
            self.output_dim,
            activation=self.output_activation,
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name="output",
        )
        self.hidden_dense.build((None, self.frequencies))
        self.output_dense.build((None, self.output_dim))

    def call(self, c_noise):
        half = self.frequencies // 2
        rates = ops.exp(
            ops.arange(half, dtype="float32")
            * (-math.log(self.max_period) / half)
        )
        angles = ops.expand_dims(ops.cast(c_noise, "float32"), -1) * rates
        x = ops.concatenate([ops.cos(angles), ops.sin(angles)], -1)
        return self.output_dense(self.hidden_dense(x))  # (B, output_dim)

    def compute_output_shape(self, c_noise_shape):
        return (c_noise_shape[0], self.output_dim)
