"""Stem, noise embedding and readout around the two-stream layers."""

# B batch, S streams (clean, noisy), T slots, D hidden_dim, V vocabulary_size

import math

import keras
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.layers import (
    AdaptiveNormalization,
    Embedding,
    Modulation,
    NoiseEmbedding,
)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class TwoLevelEmbedding(NoiseEmbedding):
    """Embeds the levels of both streams, `(B,)` to `(B, 2, output_dim)`.

    The clean stream has a fixed level, so that its keys and values do not
    depend on the noise and can be cached.

    Args:
        clean_level: float. Noise level of the clean stream.
        kwargs: keywords of `NoiseEmbedding`.
    """

    def __init__(self, *args, clean_level=0.002, **kwargs):
        super().__init__(*args, **kwargs)
        self.clean_level = clean_level

    def call(self, c_noise):
        clean = math.log(self.clean_level) / 4 * ops.ones_like(c_noise)
        return super().call(ops.stack([clean, c_noise], -1))

    def compute_output_shape(self, c_noise_shape):
        return (c_noise_shape[0], 2, self.output_dim)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARStem(Configured, keras.layers.Layer):
    """Makes clean and noisy streams: `(B, T, D)` to `(B, 2, T, D)`.

    Noisy slot i stands for a token, and clean slot i for the token before it.

    Args:
        vocabulary_size, hidden_dim: int.
        target: layer of the clean signal whose embeddings are also the clean
            stream's, as in the paper, or None for a table of its own.
        zero_init: bool. True starts the weights of the noisy rows at zero.

    Call arguments:
        noisy: scaled tensor `(B, T, D)`.
        condition: int tensor `(B, T)`, the token before each slot. The first
            one is `vocabulary_size`, the start token.
    """

    def __init__(
        self,
        vocabulary_size,
        hidden_dim,
        target=None,
        zero_init=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.target = target
        self.zero_init = zero_init

    def build(self, noisy_shape, condition_shape):
        dim, dtype = self.hidden_dim, {"dtype": self.dtype_policy}
        own_rows = 1 if self.target is not None else self.vocabulary_size + 1
        self.embedding = Embedding(
            own_rows,
            dim,
            # Gives the first layer unit variance at any width.
            scale=dim**0.5,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=dim**-0.5
            ),
            name="embedding",
            **dtype,
        )
        self.embedding.build(condition_shape)
        if self.target is None:
            self.noisy_dense = keras.layers.Dense(
                dim,
                kernel_initializer="zeros"
                if self.zero_init
                else "glorot_uniform",
                name="noisy",
                **dtype,
            )
            self.noisy_dense.build(noisy_shape)

    def call(self, noisy, condition):
        clean = self.embed(condition)  # (B, T, D)
        if self.target is None:
            # The token before is part of the condition. Added to the noisy
            # row, it saves the first layer from attending to it.
            noisy = self.noisy_dense(noisy) + clean
        return ops.stack([clean, ops.cast(noisy, clean.dtype)], 1)

    def embed(self, tokens):
        """Embedded tokens; `vocabulary_size` is the start token."""
        if self.target is None:
            return self.embedding(tokens)
        starts = ops.equal(tokens, self.vocabulary_size)
        start = self.embedding(ops.zeros_like(tokens))
        # EDM's c_in for sigma_data = 0.5 without noise is 2.
        others = 2.0 * self.target(ops.where(starts, 0, tokens))
        others = ops.cast(others, start.dtype)
        return ops.where(ops.expand_dims(starts, -1), start, others)

    def compute_output_spec(self, noisy, condition):
        batch, length, _ = noisy.shape
        shape = (batch, 2, length, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARReadout(Configured, keras.layers.Layer):
    """Modulated norm of the noisy stream, `(B, S, T, D)` to `(B, T, D)`.

    Args:
        clean_in_training: bool. True returns both streams in training,
            `(B, 2, T, D)`. Defaults to False.

    Call arguments:
        x: tensor `(B, S, T, D)`, where the noisy stream is the last.
        noise: tensor `(B, 2, noise_dim)`.
    """

    def __init__(self, clean_in_training=False, **kwargs):
        super().__init__(**kwargs)
        self.clean_in_training = clean_in_training

    def build(self, x_shape, noise_shape):
        dtype = {"dtype": self.dtype_policy}
        self.norm = AdaptiveNormalization("rms", name="norm", **dtype)
        self.modulation = Modulation(2, name="modulation", **dtype)
        self.norm.build(x_shape)
        self.modulation.build(noise_shape, x_shape)

    def call(self, x, noise, training=None):
        with_clean = self.clean_in_training and training
        if not with_clean:
            x, noise = x[:, -1:], noise[:, -1:]
        shift, scale = self.modulation(noise, x)  # each (B, S, 1, D)
        x = self.norm(x, shift, scale)  # (B, S, T, D)
        return x if with_clean else x[:, 0]
