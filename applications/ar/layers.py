"""What comes before and after the layers of both streams."""

# B batch, S streams (clean, noisy), T slots, D hidden_dim, V vocabulary_size

import math

import keras
from keras import ops

from keras_dblocks.layers import NoiseEmbedding


@keras.saving.register_keras_serializable(package="keras_dblocks")
class TwoLevelEmbedding(NoiseEmbedding):
    """The embedded levels of both streams: `(B,)` to `(B, 2, output_dim)`.

    The clean one has a fixed level, so that its keys and values do not
    depend on the noise and can be kept.

    Args:
        clean_level: float. Noise level of the clean stream.
        kwargs: those of `NoiseEmbedding`.
    """

    def __init__(self, *args, clean_level=0.002, **kwargs):
        super().__init__(*args, **kwargs)
        self.clean_level = clean_level

    def call(self, c_noise):
        clean = math.log(self.clean_level) / 4 * ops.ones_like(c_noise)
        return super().call(ops.stack([clean, c_noise], -1))

    def compute_output_shape(self, c_noise_shape):
        return (c_noise_shape[0], 2, self.output_dim)

    def get_config(self):
        return {**super().get_config(), "clean_level": self.clean_level}


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARStem(keras.layers.Layer):
    """Clean tokens and noisy ones: `(B, T, D)` to `(B, 2, T, D)`.

    Noisy slot i stands for a token, clean slot i for the one before it.

    Args:
        vocabulary_size, hidden_dim: int.
        target: layer of the clean signal whose rows are also the clean
            stream's, as in the paper; or None for a table of its own.
        quiet: bool. Noisy rows are added with weights that start at zero.

    Call arguments:
        noisy: tensor `(B, T, D)`, scaled.
        condition: int tensor `(B, T)`, the tokens before each; the one before
            the first is `vocabulary_size`, the beginning.
    """

    def __init__(
        self, vocabulary_size, hidden_dim, target=None, quiet=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.target = target
        self.quiet = quiet

    def build(self, noisy_shape, condition_shape):
        dim = self.hidden_dim
        rows = 1 if self.target is not None else self.vocabulary_size + 1
        self.embedding = self.add_weight(
            shape=(rows, dim),
            initializer=keras.initializers.RandomNormal(stddev=dim**-0.5),
            name="embedding",
        )
        if self.target is None:
            self.noisy_dense = keras.layers.Dense(
                dim,
                kernel_initializer="zeros" if self.quiet else "glorot_uniform",
                dtype=self.dtype_policy,
                name="noisy",
            )
            self.noisy_dense.build(noisy_shape)

    def call(self, noisy, condition):
        clean = self.rows(condition)
        if self.target is None:
            # The token before is part of the condition; with it beside the
            # noise, the first layer need not look for it.
            noisy = self.noisy_dense(noisy) + clean
        return ops.stack([clean, ops.cast(noisy, clean.dtype)], 1)

    def rows(self, tokens):
        """Embedded tokens; `vocabulary_size` is the beginning."""
        table = ops.convert_to_tensor(self.embedding)
        # Unit variance into the first layer, whatever the width.
        table = table * table.shape[-1] ** 0.5
        if self.target is not None:
            # What EDM's c_in makes of them at no noise, sigma_data 0.5.
            rows = ops.cast(2.0 * self.target._rows(), table.dtype)
            table = ops.concatenate([rows, table], 0)
        return ops.take(table, ops.cast(tokens, "int32"), axis=0)

    def compute_output_spec(self, noisy, condition):
        batch, length, _ = noisy.shape
        shape = (batch, 2, length, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARReadout(keras.layers.Layer):
    """Modulated norm of the noisy stream, `(B, S, T, D)` to `(B, T, D)`.

    Args:
        both: bool. In training the clean stream too, `(B, 2, T, D)`.

    Call arguments:
        x: tensor `(B, S, T, D)`, the noisy stream last.
        noise: tensor `(B, 2, noise_dim)`.
    """

    def __init__(self, both=False, **kwargs):
        super().__init__(**kwargs)
        self.both = both

    def build(self, x_shape, noise_shape):
        self.norm = keras.layers.RMSNormalization(
            dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(x_shape)
        self.modulation = keras.layers.Dense(
            2 * x_shape[-1],
            kernel_initializer="zeros",
            dtype=self.dtype_policy,
            name="modulation",
        )
        self.modulation.build(noise_shape)

    def call(self, x, noise, training=None):
        if not (self.both and training):
            x, noise = x[:, -1:], noise[:, -1:]
        maps = ops.expand_dims(self.modulation(ops.silu(noise)), 2)
        shift, scale = ops.split(maps, 2, axis=-1)  # each (B, S, 1, D)
        x = self.norm(x) * (1 + scale) + shift
        return x if self.both and training else x[:, 0]

    def get_config(self):
        return {**super().get_config(), "both": self.both}
