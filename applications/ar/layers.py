"""Llama's layer on two streams, and what comes before and after the layers."""

# B batch, S streams (clean, noisy), T slots, D hidden_dim, V vocabulary_size

import math

import keras
import numpy as np
from keras import ops

from keras_dblocks.layers import CausalAttention, NoiseEmbedding


@keras.saving.register_keras_serializable(package="keras_dblocks")
class LlamaLayer(keras.layers.Layer):
    """Causal attention and a gated perceptron, each after an RMS norm.

    Args:
        num_heads: int.
        intermediate_dim: int. Width of the perceptron.
        num_key_value_heads: int or None.
        dropout: float. After attention and perceptron.
        conditioned: bool. Modulated by the noise level (adaptive norm).
            Defaults to True; False is Llama's own layer.
        open_gates: bool. The gates of the modulation start at 1 and not at
            0, so that the layer starts as Llama's. Defaults to True.

    Call arguments:
        x: tensor `(B, S, T, D)`; stream 0 clean, stream 1 noisy.
        noise: tensor `(B, S, noise_dim)`, the embedded level of each stream.
        cache, index: see `layers.CausalAttention`.

    Returns:
        Tensor `(B, S, T, D)`; with a cache also the new cache.

    References:
     - [Llama 2](https://arxiv.org/abs/2307.09288)
     - [DiT](https://arxiv.org/abs/2212.09748), adaptive layer norm
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        num_key_value_heads=None,
        dropout=0.0,
        conditioned=True,
        open_gates=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.num_key_value_heads = num_key_value_heads
        self.dropout = dropout
        self.conditioned = conditioned
        self.open_gates = open_gates

    def build(self, x_shape, noise_shape=None):
        dim = x_shape[-1]
        kwargs = {"dtype": self.dtype_policy}
        self.attention = CausalAttention(
            self.num_heads,
            self.num_key_value_heads,
            name="attention",
            **kwargs,
        )
        self.attention.build(x_shape)
        for name in ("attention_norm", "mlp_norm"):
            norm = keras.layers.RMSNormalization(name=name, **kwargs)
            setattr(self, name, norm)
            norm.build(x_shape)
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, name="dropout", **kwargs
        )
        wide = (*x_shape[:-1], self.intermediate_dim)
        for name, units, shape in (
            ("attention_output", dim, x_shape),
            ("gate", self.intermediate_dim, x_shape),
            ("up", self.intermediate_dim, x_shape),
            ("down", dim, wide),
        ):
            dense = keras.layers.Dense(
                units, use_bias=False, name=name, **kwargs
            )
            setattr(self, name, dense)
            dense.build(shape)
        if self.conditioned:
            maps = np.zeros((6, dim), "float32")
            maps[[2, 5]] = float(self.open_gates)  # shift, scale, gate, twice
            bias = keras.initializers.Constant(maps.reshape(-1))
            self.modulation = keras.layers.Dense(
                6 * dim,
                kernel_initializer="zeros",
                bias_initializer=bias,
                name="modulation",
                **kwargs,
            )
            self.modulation.build(noise_shape)

    def call(self, x, noise=None, cache=None, index=0, training=None):
        maps = (None,) * 6
        if self.conditioned:
            maps = self.modulation(ops.silu(noise))  # (B, S, 6 D)
            maps = ops.split(ops.expand_dims(maps, 2), 6, axis=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = maps
        h = self._norm(self.attention_norm, x, shift_a, scale_a, training)
        h, cache = self.attention(h, cache=cache, index=index)
        x = self._add(x, self.attention_output, h, gate_a, training)
        h = self._norm(self.mlp_norm, x, shift_m, scale_m, training)
        h = ops.silu(self.gate(h)) * self.up(h)
        x = self._add(x, self.down, h, gate_m, training)
        return x if cache is None else (x, cache)

    def _norm(self, norm, x, shift, scale, training):
        # Computed again in the backward pass: what conditioning adds to the
        # activations of a plain layer is not kept.
        def modulate(x, gain, shift, scale):
            h = ops.rms_normalization(x, gain, axis=-1, epsilon=1e-6)
            return h * (1 + scale) + shift

        # A tensor also on TensorFlow: a variable would be counted twice in the
        # gradient of what is computed again, once as what it was called with.
        gain = ops.cast(ops.convert_to_tensor(norm.scale), x.dtype)
        if shift is None:
            return ops.rms_normalization(x, gain, axis=-1, epsilon=1e-6)
        modulate = keras.remat(modulate) if training else modulate
        return modulate(x, gain, shift, scale)

    def _add(self, x, dense, h, gate, training):
        if gate is None or (training and self.dropout):
            h = self.dropout_layer(dense(h), training=training)
            return x + (h if gate is None else gate * h)

        def add(x, h, kernel, gate):
            return x + gate * ops.matmul(h, kernel)

        add = keras.remat(add) if training else add
        kernel = ops.cast(ops.convert_to_tensor(dense.kernel), h.dtype)
        return add(x, h, kernel, gate)

    def compute_output_spec(self, x, noise=None, cache=None, index=0, **kwargs):
        spec = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        return spec if cache is None else (spec, cache)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "dropout": self.dropout,
            "conditioned": self.conditioned,
            "open_gates": self.open_gates,
        }


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
    """Modulated norm of the noisy stream, `(B, 2, T, D)` to `(B, T, D)`.

    Args:
        both: bool. In training the clean stream too, `(B, 2, T, D)`.

    Call arguments:
        x: tensor `(B, 2, T, D)`.
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
            x, noise = x[:, 1:], noise[:, 1:]
        maps = ops.expand_dims(self.modulation(ops.silu(noise)), 2)
        shift, scale = ops.split(maps, 2, axis=-1)  # each (B, S, 1, D)
        x = self.norm(x) * (1 + scale) + shift
        return x if self.both and training else x[:, 0]

    def get_config(self):
        return {**super().get_config(), "both": self.both}
