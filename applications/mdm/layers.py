"""Stem, readout and head of a masked diffusion model."""

# B batch, T tokens, D hidden_dim, V vocabulary_size

import keras

from keras_dblocks.configuration import Configured
from keras_dblocks.layers import AdaptiveNormalization, Embedding, Modulation


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MDMStem(Configured, keras.layers.Layer):
    """Embeds tokens and the mask: `(B, T)` to `(B, T, D)`.

    Args:
        vocabulary_size: int. The mask is an additional token.
        hidden_dim: int.
    """

    def __init__(self, vocabulary_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        # It is made here, since a tied head needs it before `build`.
        self.embedding = Embedding(
            vocabulary_size + 1,
            hidden_dim,
            # Gives the first layer unit variance at any width.
            scale=hidden_dim**0.5,
            reverse_dim=vocabulary_size,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=hidden_dim**-0.5
            ),
            dtype=self.dtype_policy,
            name="embedding",
        )

    def build(self, tokens_shape):
        self.embedding.build(tokens_shape)

    def call(self, tokens):
        return self.embedding(tokens)

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.hidden_dim)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MDMReadout(Configured, keras.layers.Layer):
    """Modulated norm, `(B, T, D)` to the same shape.

    Call arguments:
        x: tensor `(B, T, D)`.
        noise: tensor `(B, noise_dim)`.
    """

    def build(self, x_shape, noise_shape):
        dtype = {"dtype": self.dtype_policy}
        self.norm = AdaptiveNormalization(
            "layer", affine=False, name="norm", **dtype
        )
        self.modulation = Modulation(2, name="modulation", **dtype)
        self.norm.build(x_shape)
        self.modulation.build(noise_shape, x_shape)

    def call(self, x, noise):
        shift, scale = self.modulation(noise, x)  # each (B, 1, D)
        return self.norm(x, shift, scale)  # (B, T, D)

    def compute_output_shape(self, x_shape, noise_shape):
        return x_shape


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MDMHead(Configured, keras.layers.Layer):
    """Logits, `(B, T, D)` to `(B, T, V)`.

    Args:
        vocabulary_size: int.
        embedding: `keras_dblocks.layers.Embedding` whose rows are the weights
            of the logits, or None for weights of its own.
    """

    def __init__(self, vocabulary_size, embedding=None, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding = embedding

    def build(self, x_shape):
        if self.embedding is None:
            # Small weights make the first prediction nearly uniform.
            initializer = keras.initializers.RandomNormal(stddev=0.02)
            self.logits = keras.layers.Dense(
                self.vocabulary_size,
                kernel_initializer=initializer,
                name="logits",
                dtype=self.dtype_policy,
            )
            self.logits.build(x_shape)

    def call(self, x):
        if self.embedding is None:
            return self.logits(x)
        return self.embedding(x, reverse=True)

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.vocabulary_size)
