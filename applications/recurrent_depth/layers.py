"""Huginn's layers, conditioned on the noise level where they denoise."""

# B batch, S streams, T slots, D hidden_dim

import keras
from keras import ops

from keras_dblocks.layers import CausalAttention

THETA = 50000.0  # base of Huginn's rotary wavelengths


@keras.saving.register_keras_serializable(package="keras_dblocks")
class SandwichLayer(keras.layers.Layer):
    """Causal attention and a gated perceptron, normed before and after.

    `x = norm_2(x + attention(norm_1(x)))`, then
    `x = norm_4(x + mlp(norm_3(x)))`: the size of the state stays the same
    however often the layer is repeated.

    Args:
        num_heads: int.
        intermediate_dim: int. Width of the perceptron.
        conditioned: bool. Shift and scale after `norm_1` and `norm_3` by the
            noise level. Defaults to True; False is Huginn's own layer.

    Call arguments:
        x: tensor `(B, S, T, D)`.
        noise: tensor `(B, noise_dim)`, the embedded level.
        cache, index: see `layers.CausalAttention`.

    Returns:
        Tensor `(B, S, T, D)`; with a cache also the new cache.

    References:
     - [Huginn](https://arxiv.org/abs/2502.05171), Section 3.2
     - [DiT](https://arxiv.org/abs/2212.09748), adaptive layer norm
    """

    def __init__(self, num_heads, intermediate_dim, conditioned=True, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.conditioned = conditioned

    def build(self, x_shape, noise_shape=None):
        dim = x_shape[-1]
        kwargs = {"dtype": self.dtype_policy}
        self.attention = CausalAttention(
            self.num_heads, theta=THETA, bias=True, name="attention", **kwargs
        )
        self.attention.build(x_shape)
        for i in (1, 2, 3, 4):
            norm = keras.layers.RMSNormalization(name=f"norm_{i}", **kwargs)
            setattr(self, f"norm_{i}", norm)
            norm.build(x_shape)
        wide = (*x_shape[:-1], self.intermediate_dim)
        for name, units, shape in (
            ("attention_output", dim, x_shape),
            ("fc", 2 * self.intermediate_dim, x_shape),
            ("down", dim, wide),
        ):
            dense = keras.layers.Dense(
                units, use_bias=False, name=name, **kwargs
            )
            setattr(self, name, dense)
            dense.build(shape)
        if self.conditioned:
            self.modulation = keras.layers.Dense(
                4 * dim,
                kernel_initializer="zeros",
                name="modulation",
                **kwargs,
            )
            self.modulation.build(noise_shape)

    def call(self, x, noise=None, cache=None, index=0, training=None):
        maps = (None,) * 4
        if self.conditioned:
            maps = self.modulation(ops.silu(noise))  # (B, 4 D)
            maps = ops.split(maps[:, None, None], 4, axis=-1)
        h = _modulate(self.norm_1, x, *maps[:2])
        h, cache = self.attention(h, cache=cache, index=index)
        x = self.norm_2(x + self.attention_output(h))
        h = self.fc(_modulate(self.norm_3, x, *maps[2:]))
        gate, up = ops.split(h, 2, axis=-1)
        x = self.norm_4(x + self.down(ops.silu(gate) * up))
        return x if cache is None else (x, cache)

    def compute_output_spec(self, x, noise=None, cache=None, index=0, **kwargs):
        spec = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        return spec if cache is None else (spec, cache)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "conditioned": self.conditioned,
        }


def _modulate(norm, x, shift, scale):
    h = norm(x)
    return h if shift is None else h * (1 + scale) + shift


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

    def call(self, noisy, condition):
        return self.adapt(noisy, self.context(self.rows(condition)))

    def rows(self, tokens):
        """Embedded tokens `(B, 1, T, D)`."""
        # Unit variance into the first layer, whatever the width.
        table = ops.convert_to_tensor(self.embedding)
        table = table * table.shape[-1] ** 0.5
        rows = ops.take(table, ops.cast(tokens, "int32"), axis=0)
        return ops.expand_dims(rows, 1)

    def context(self, state):
        """The prelude of embedded tokens `(B, 1, T, D)`, normed."""
        for layer in self.prelude:
            state = layer(state)
        return self.norm(state)

    def adapt(self, noisy, context):
        """The core's first state of a noisy row and the prelude's output."""
        noisy = ops.cast(ops.expand_dims(noisy, 1), context.dtype)
        state = self.adapter(ops.concatenate([noisy, context], -1))
        if self.both:
            return ops.concatenate([context, state], 1)
        return state

    def compute_output_spec(self, noisy, condition):
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
        caches, index: lists of the coda's caches, and their slot.
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

    def call(self, x, noise):
        for layer in self.coda:
            x = layer(x, noise=noise)
        return self.norm(x[:, -1])

    def compute_output_spec(self, x, noise):
        batch, _, length, dim = x.shape
        return keras.KerasTensor((batch, length, dim), dtype=self.compute_dtype)
