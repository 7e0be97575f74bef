"""Stem and readout around the layers of one causal stream."""

# B batch, T slots, D hidden_dim

import keras
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.layers import AdaptiveNormalization, Embedding, Modulation


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARStem(Configured, keras.layers.Layer):
    """Adds noisy tokens to the tokens before them: two of `(B, T, D)` to one.

    Slot i holds token i - 1, which is known, and what is believed of token i,
    which is to be predicted. Slots after it attend to it, but they know token
    i anyway, so nothing leaks. The projection of the belief starts at zero.

    Args:
        vocabulary_size, hidden_dim: int.

    Call arguments:
        noisy: scaled tensor `(B, T, dim)`, the noisy tokens or what was handed
            over. Zeros say nothing.
        condition: int tensor `(B, T)`, the token before each slot. The first
            one is `vocabulary_size`, the start token.

    Returns:
        Tensor `(B, 1, T, D)`.
    """

    def __init__(self, vocabulary_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim

    def build(self, noisy_shape, condition_shape):
        dtype = {"dtype": self.dtype_policy}
        self.embedding = previous_tokens(
            self.vocabulary_size + 1, self.hidden_dim, **dtype
        )
        self.embedding.build(condition_shape)
        self.belief = keras.layers.Dense(
            self.hidden_dim,
            use_bias=False,
            kernel_initializer="zeros",
            name="belief",
            **dtype,
        )
        self.belief.build(noisy_shape)

    def call(self, noisy, condition):
        x = self.embedding(condition)  # (B, T, D)
        x = x + self.belief(ops.cast(noisy, x.dtype))  # (B, T, D)
        return ops.expand_dims(x, 1)  # (B, 1, T, D)

    def compute_output_spec(self, noisy, condition):
        shape = (noisy.shape[0], 1, noisy.shape[1], self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARReadout(Configured, keras.layers.Layer):
    """Modulated norm of the last stream, `(B, S, T, D)` to `(B, T, D)`.

    Call arguments:
        x: tensor `(B, S, T, D)`.
        noise: tensor `(B, noise_dim)`, or `(B, 2, noise_dim)` of two streams.
    """

    def build(self, x_shape, noise_shape):
        dtype = {"dtype": self.dtype_policy}
        self.norm = AdaptiveNormalization("rms", name="norm", **dtype)
        self.modulation = Modulation(2, name="modulation", **dtype)
        self.norm.build(x_shape)
        self.modulation.build(noise_shape, x_shape)

    def call(self, x, noise):
        if len(noise.shape) == 3:
            noise = noise[:, -1]  # (B, noise_dim)
        x = x[:, -1]  # (B, T, D)
        shift, scale = self.modulation(noise, x)  # each (B, 1, D)
        return self.norm(x, shift, scale)  # (B, T, D)

    def compute_output_spec(self, x, noise):
        batch, _, *rest = x.shape
        return keras.KerasTensor((batch, *rest), dtype=self.compute_dtype)


def previous_tokens(rows, hidden_dim, dtype):
    """Embedding whose output gives the first layer unit variance."""
    return Embedding(
        rows,
        hidden_dim,
        scale=hidden_dim**0.5,
        embeddings_initializer=keras.initializers.RandomNormal(
            stddev=hidden_dim**-0.5
        ),
        dtype=dtype,
        name="embedding",
    )
