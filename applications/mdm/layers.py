"""What a masked diffusion model has beside its transformer layers."""

# B batch, T tokens, D hidden_dim, V vocabulary_size

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MDMStem(keras.layers.Layer):
    """Tokens and the mask, embedded: `(B, T)` to `(B, T, D)`.

    Args:
        vocabulary_size: int. The mask is one token more.
        hidden_dim: int.
    """

    def __init__(self, vocabulary_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(
            vocabulary_size + 1,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=hidden_dim**-0.5
            ),
            dtype=self.dtype_policy,
            name="embedding",
        )
        # Unit variance into the first layer, whatever the width.
        self.scale = hidden_dim**0.5

    def build(self, tokens_shape):
        self.embedding.build(tokens_shape)

    def call(self, tokens):
        # Scaled before the look-up, so that on TensorFlow the gradient is
        # dense: Keras 3.15 squares a sparse one, as Adam does, row by row.
        rows = self.scale * ops.convert_to_tensor(self.embedding.embeddings)
        return ops.take(rows, tokens, axis=0)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MDMReadout(keras.layers.Layer):
    """Modulated norm and logits: `(B, T, D)` to `(B, T, V)`.

    Args:
        vocabulary_size: int.
        embedding: `keras.layers.Embedding` whose rows are the output's, or
            None for weights of its own.

    Call arguments:
        x: tensor `(B, T, D)`.
        noise: tensor `(B, noise_dim)`.
    """

    def __init__(self, vocabulary_size, embedding=None, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.embedding = embedding

    def build(self, x_shape, noise_shape):
        kwargs = {"dtype": self.dtype_policy}
        self.modulation = keras.layers.Dense(
            2 * x_shape[-1],
            kernel_initializer="zeros",
            name="modulation",
            **kwargs,
        )
        self.modulation.build(noise_shape)
        if self.embedding is None:
            # Small: the first prediction is near uniform.
            initializer = keras.initializers.RandomNormal(stddev=0.02)
            self.logits = keras.layers.Dense(
                self.vocabulary_size,
                kernel_initializer=initializer,
                name="logits",
                **kwargs,
            )
            self.logits.build(x_shape)

    def call(self, x, noise):
        maps = ops.expand_dims(self.modulation(ops.silu(noise)), 1)
        shift, scale = ops.split(maps, 2, axis=-1)  # each (B, 1, D)
        x = ops.layer_normalization(x, axis=-1, epsilon=1e-6)
        x = x * (1 + scale) + shift
        if self.embedding is None:
            return self.logits(x)
        rows = ops.cast(self.embedding.embeddings, x.dtype)
        rows = rows[: self.vocabulary_size]
        return ops.matmul(x, ops.transpose(rows))  # (B, T, V)
