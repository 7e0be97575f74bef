"""Layers and checks that models of the next token share."""

# D hidden_dim, V vocabulary_size

import keras
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ScaledLogits(Configured, keras.layers.Layer):
    """Logits `(..., V)` of denoised rows `(..., D)`.

    Args:
        vocabulary_size: int.
        scale: float. Factor of the logits.
        target: layer of the clean signal whose rows are the weights, or None
            for weights of its own.
    """

    def __init__(self, vocabulary_size, scale=1.0, target=None, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.scale = scale
        self.target = target

    def build(self, x_shape):
        if self.target is None:
            # Small weights make the first prediction nearly uniform.
            self.dense = keras.layers.Dense(
                self.vocabulary_size,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
                dtype=self.dtype_policy,
                name="logits",
            )
            self.dense.build(x_shape)

    def call(self, x):
        if self.target is None:
            return self.scale * self.dense(x)
        rows = ops.cast(self.target.embeddings(), x.dtype)
        return self.scale * ops.matmul(x, ops.transpose(rows))


@keras.saving.register_keras_serializable(package="keras_dblocks")
class AmendedLogits(ScaledLogits):
    """Logits that correct the distribution the earlier steps handed over.

    They are `u(level) log(signal) + W x`. With `u = 1` the layers need only
    correct what was handed over; at first `u = 0`. If the chain starts from
    zero, the first term is then the same for all tokens.

    Args:
        vocabulary_size: int.
        floor: float, added to the signal before the logarithm.

    Call arguments:
        x: tensor `(..., T, D)`.
        noise: tensor `(B, noise_dim)`, or `(B, S, noise_dim)`, of which the
            last stream is used.
        signal: tensor `(B, T, V)`, see `OneHotTokens`.
    """

    def __init__(self, vocabulary_size, floor=1e-5, **kwargs):
        super().__init__(vocabulary_size, **kwargs)
        self.floor = floor

    def build(self, x_shape, noise_shape, signal_shape):
        super().build(x_shape)
        self.share = keras.layers.Dense(
            1, kernel_initializer="zeros", dtype="float32", name="share"
        )
        self.share.build((None, noise_shape[-1]))

    def call(self, x, noise, signal):
        noise = noise[:, -1] if len(noise.shape) == 3 else noise
        share = ops.expand_dims(self.share(ops.silu(noise)), 1)  # (B, 1, 1)
        handed = share * ops.log(ops.maximum(signal, 0.0) + self.floor)
        logits = ops.cast(super().call(x), "float32")
        return logits + handed


def check_heads(hidden_dim, num_heads, num_key_value_heads):
    """Refuses widths that cannot be split into heads."""
    check_sizes(
        optional=["num_key_value_heads"],
        hidden_dim=hidden_dim,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
    )
    groups = num_key_value_heads or num_heads
    if hidden_dim % (2 * num_heads) or num_heads % groups:
        raise ValueError(
            "`hidden_dim` must be a multiple of twice `num_heads`, for rotary "
            "positions, and `num_heads` one of `num_key_value_heads`. "
            f"Received: hidden_dim={hidden_dim}, num_heads={num_heads}, "
            f"num_key_value_heads={num_key_value_heads}. Change one of them."
        )
