"""Stem and readout around a recurrent core."""

# B batch, S streams, T slots, D hidden_dim

import keras
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.layers import Embedding


@keras.saving.register_keras_serializable(package="keras_dblocks")
class RecurrentStem(Configured, keras.layers.Layer):
    """Prelude and adapter, from noisy tokens `(B, T, D)` to the first state.

    The adapter is a linear map of the concatenated noisy token and prelude's
    output. In a sum the noise would drown the context at high levels
    (docs/method.md#recurrent-depth).

    Args:
        vocabulary_size: int.
        prelude: list of `SandwichLayer`.
        context_stream: bool. True also returns the prelude's output, as
            stream 0 before the states. Defaults to False.

    Call arguments:
        noisy: scaled tensor `(B, T, D)`.
        condition: int tensor `(B, T)`, the token before each slot.

    Returns:
        Tensor `(B, 1, T, D)`, or `(B, 2, T, D)`.
    """

    def __init__(
        self, vocabulary_size, prelude, context_stream=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.prelude = prelude
        self.context_stream = context_stream

    def build(self, noisy_shape, condition_shape):
        batch, length, dim = noisy_shape
        dtype = {"dtype": self.dtype_policy}
        self.embedding = Embedding(
            self.vocabulary_size + 1,  # the last row is the start token's
            dim,
            # Gives the first layer unit variance at any width.
            scale=dim**0.5,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=dim**-0.5
            ),
            name="embedding",
            **dtype,
        )
        self.norm = keras.layers.RMSNormalization(name="norm", **dtype)
        self.adapter = keras.layers.Dense(dim, name="adapter", **dtype)
        self.embedding.build(condition_shape)
        for layer in self.prelude:
            layer.build((batch, 1, length, dim))
        self.norm.build((batch, 1, length, dim))
        self.adapter.build((batch, 1, length, 2 * dim))

    def call(self, noisy, condition, training=None):
        context = self.context(self.embed(condition), training)
        return self.adapt(noisy, context)

    def embed(self, tokens):
        """Embedded tokens `(B, 1, T, D)`."""
        return ops.expand_dims(self.embedding(tokens), 1)

    def context(self, state, training=None):
        """The normed prelude's output of embedded tokens `(B, 1, T, D)`."""
        for layer in self.prelude:
            state = layer(state, training=training)
        return self.norm(state)

    def adapt(self, noisy, context):
        """The core's first state, from noisy tokens and prelude's output."""
        noisy = ops.cast(ops.expand_dims(noisy, 1), context.dtype)
        state = self.adapter(ops.concatenate([noisy, context], -1))
        if self.context_stream:
            return ops.concatenate([context, state], 1)
        return state

    def compute_output_spec(self, noisy, condition, training=None):
        batch, length, dim = noisy.shape
        shape = (batch, 1 + self.context_stream, length, dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class RecurrentReadout(Configured, keras.layers.Layer):
    """Coda and norm, from the core's last state to `(B, T, D)`.

    Args:
        coda: list of `SandwichLayer`.

    Call arguments:
        x: tensor `(B, S, T, D)`, whose last stream holds the answer.
        noise: tensor `(B, noise_dim)`.
    """

    def __init__(self, coda, **kwargs):
        super().__init__(**kwargs)
        self.coda = coda

    def build(self, x_shape, noise_shape):
        for layer in self.coda:
            layer.build(x_shape, noise_shape)
        self.norm = keras.layers.RMSNormalization(
            dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(x_shape)

    def call(self, x, noise, training=None):
        for layer in self.coda:
            x = layer(x, noise=noise, training=training)
        return self.norm(x[:, -1])

    def compute_output_spec(self, x, noise, training=None):
        batch, _, length, dim = x.shape
        return keras.KerasTensor((batch, length, dim), dtype=self.compute_dtype)
