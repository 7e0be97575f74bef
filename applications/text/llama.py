"""Llama's layer, conditioned on the noise level where it denoises."""

# B batch, S streams (clean, noisy), T slots, D width

import keras
import numpy as np
from keras import ops

from keras_dblocks.applications.text.causal_attention import CausalAttention
from keras_dblocks.applications.text.layers import modulated_norm
from keras_dblocks.rematerialization import as_tensor


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
        last_only: bool. Only the last stream comes out, of the other one no
            more is computed than the keys and values it asks for: a block's
            last layer. Defaults to False.

    Call arguments:
        x: tensor `(B, S, T, D)`; stream 0 clean, stream 1 noisy.
        noise: tensor `(B, S, noise_dim)`, the embedded level of each stream.
        cache, index: see `CausalAttention`.

    Returns:
        Tensor `(B, S, T, D)`, or `(B, 1, T, D)` if `last_only`; with a cache
        also the new cache.

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
        last_only=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.num_key_value_heads = num_key_value_heads
        self.dropout = dropout
        self.conditioned = conditioned
        self.open_gates = open_gates
        self.last_only = last_only

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
        h, cache = self.attention(
            h, cache=cache, index=index, last_only=self.last_only
        )
        if self.last_only:
            x = x[:, -1:]
            gate_a, shift_m, scale_m, gate_m = (
                m if m is None else m[:, -1:]
                for m in (gate_a, shift_m, scale_m, gate_m)
            )
        x = self._add(x, self.attention_output, h, gate_a, training)
        h = self._norm(self.mlp_norm, x, shift_m, scale_m, training)
        h = ops.silu(self.gate(h)) * self.up(h)
        x = self._add(x, self.down, h, gate_m, training)
        return x if cache is None else (x, cache)

    def _norm(self, norm, x, shift, scale, training):
        # Computed again in the backward pass: what conditioning adds to the
        # activations of a plain layer is not kept.
        again = training and shift is not None
        modulate = keras.remat(modulated_norm) if again else modulated_norm
        return modulate(x, as_tensor(norm.scale, x.dtype), shift, scale)

    def _add(self, x, dense, h, gate, training):
        h = self.dropout_layer(dense(h), training=training)
        return x + (h if gate is None else gate * h)

    def compute_output_spec(self, x, noise=None, cache=None, index=0, **kwargs):
        batch, streams, *rest = x.shape
        shape = (batch, 1 if self.last_only else streams, *rest)
        spec = keras.KerasTensor(shape, dtype=self.compute_dtype)
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
            "last_only": self.last_only,
        }
