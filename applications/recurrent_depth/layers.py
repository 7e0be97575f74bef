"""What a recurrent core has before and after it."""

# B batch, S streams, T slots, D hidden_dim

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dblocks")
class RecurrentStem(keras.layers.Layer):
    """Prelude and adapter: noisy rows `(B, T, D)` to the core's first state.

    The adapter is a linear map of noisy row and prelude side by side; a sum
    would leave the context next to nothing at high noise (METHOD 6.5).

    Args:
        vocabulary_size: int.
        prelude: list of `SandwichLayer`.
        both: bool. The prelude's output as stream 0 beside the states.

    Call arguments:
        noisy: tensor `(B, T, D)`, scaled.
        condition: int tensor `(B, T)`, the tokens before each.

    Returns:
        Tensor `(B, 1, T, D)`, or `(B, 2, T, D)`.
    """

    def __init__(self, vocabulary_size, prelude, both=False, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.prelude = prelude
        self.both = both

    def build(self, noisy_shape, condition_shape):
        batch, length, dim = noisy_shape
        self.embedding = self.add_weight(
            shape=(self.vocabulary_size + 1, dim),
            initializer=keras.initializers.RandomNormal(stddev=dim**-0.5),
            name="embedding",
        )
        for layer in self.prelude:
            layer.build((batch, 1, length, dim))
        self.norm = keras.layers.RMSNormalization(
            dtype=self.dtype_policy, name="norm"
        )
        self.norm.build((batch, 1, length, dim))
        self.adapter = keras.layers.Dense(
            dim, dtype=self.dtype_policy, name="adapter"
        )
        self.adapter.build((batch, 1, length, 2 * dim))

    def call(self, noisy, condition, training=None):
        context = self.context(self.rows(condition), training)
        return self.adapt(noisy, context)

    def rows(self, tokens):
        """Embedded tokens `(B, 1, T, D)`."""
        # Unit variance into the first layer, whatever the width.
        table = ops.convert_to_tensor(self.embedding)
        table = table * table.shape[-1] ** 0.5
        rows = ops.take(table, ops.cast(tokens, "int32"), axis=0)
        return ops.expand_dims(rows, 1)

    def context(self, state, training=None):
        """The prelude of embedded tokens `(B, 1, T, D)`, normed."""
        for layer in self.prelude:
            state = layer(state, training=training)
        return self.norm(state)

    def adapt(self, noisy, context):
        """The core's first state of a noisy row and the prelude's output."""
        noisy = ops.cast(ops.expand_dims(noisy, 1), context.dtype)
        state = self.adapter(ops.concatenate([noisy, context], -1))
        if self.both:
            return ops.concatenate([context, state], 1)
        return state

    def compute_output_spec(self, noisy, condition, training=None):
        batch, length, dim = noisy.shape
        shape = (batch, 1 + self.both, length, dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class RecurrentReadout(keras.layers.Layer):
    """Coda and norm: the core's last state to `(B, T, D)`.

    Args:
        coda: list of `SandwichLayer`.

    Call arguments:
        x: tensor `(B, S, T, D)`; the answer is read off the last stream.
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
