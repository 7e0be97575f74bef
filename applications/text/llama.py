"""Llama's layer, optionally conditioned on the noise level."""

# B batch, S streams (clean, noisy), T slots, D width

import keras
from keras import ops

from keras_dblocks.applications.text.causal_attention import CausalAttention
from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured
from keras_dblocks.layers import (
    AdaptiveNormalization,
    Modulation,
)
from keras_dblocks.layers.gated_residual import gated_sum


@keras.saving.register_keras_serializable(package="keras_dblocks")
class LlamaLayer(Configured, keras.layers.Layer):
    """Causal attention and a gated perceptron, each after an RMS norm.

    Args:
        num_heads: int.
        intermediate_dim: int. Width of the perceptron.
        num_key_value_heads: int or None.
        dropout: float. Dropout after attention and perceptron.
        conditioned: bool. Whether the noise level modulates the layer
            (adaptive norm). False is Llama's own layer. Defaults to True.
        open_gates: bool. True starts the gates of the modulation at 1 instead
            of 0, so that the layer starts as Llama's. Defaults to True.
        last_only: bool. True returns the last stream alone and computes only
            the keys and values of the other one, for a block's last layer.
            Defaults to False.

    Call arguments:
        x: tensor `(B, S, T, D)`. Stream 0 is clean, and stream 1 noisy.
        noise: tensor `(B, noise_dim)`, the embedded level, or
            `(B, S, noise_dim)`, that of each stream.
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
        check_sizes(
            optional=["num_key_value_heads"],
            num_heads=num_heads,
            num_key_value_heads=num_key_value_heads,
            intermediate_dim=intermediate_dim,
        )
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.num_key_value_heads = num_key_value_heads
        self.dropout = dropout
        self.conditioned = conditioned
        self.open_gates = open_gates
        self.last_only = last_only

    def build(self, x_shape, noise_shape=None):
        dtype = {"dtype": self.dtype_policy}
        wide_shape = (*x_shape[:-1], self.intermediate_dim)
        # The activations that noise conditioning adds to those of a plain
        # layer are computed again in the backward pass.
        norm = {"recompute": self.conditioned, **dtype}
        dense = {"use_bias": False, **dtype}
        self.attention = CausalAttention(
            self.num_heads, self.num_key_value_heads, name="attention", **dtype
        )
        self.attention_norm = AdaptiveNormalization(
            "rms", name="attention_norm", **norm
        )
        self.mlp_norm = AdaptiveNormalization("rms", name="mlp_norm", **norm)
        self.attention_output = keras.layers.Dense(
            x_shape[-1], name="attention_output", **dense
        )
        self.gate = keras.layers.Dense(
            self.intermediate_dim, name="gate", **dense
        )
        self.up = keras.layers.Dense(self.intermediate_dim, name="up", **dense)
        self.down = keras.layers.Dense(x_shape[-1], name="down", **dense)
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, name="dropout", **dtype
        )
        for layer in (
            self.attention,
            self.attention_norm,
            self.mlp_norm,
            self.gate,
            self.up,
            self.attention_output,
        ):
            layer.build(x_shape)
        self.down.build(wide_shape)
        if self.conditioned:
            self.modulation = Modulation(
                6,  # shift, scale and gate of each sublayer
                ones=(2, 5) if self.open_gates else (),
                name="modulation",
                **dtype,
            )
            self.modulation.build(noise_shape, x_shape)

    def call(self, x, noise=None, cache=None, index=0, training=None):
        maps = self.modulation(noise, x) if self.conditioned else [None] * 6
        shift_a, scale_a, *maps = maps  # (B, S, 1, D)
        mode = {"training": training}
        h = self.attention_norm(x, shift_a, scale_a, **mode)  # (B, S, T, D)
        h, cache = self.attention(
            h, cache=cache, index=index, last_only=self.last_only
        )  # (B, S or 1, T, D)
        x, gate_a, shift_m, scale_m, gate_m = self._coming_out(x, *maps)
        h = self.dropout_layer(self.attention_output(h), **mode)
        x = gated_sum(x, h, gate_a)  # (B, S or 1, T, D)
        h = self.mlp_norm(x, shift_m, scale_m, **mode)  # (B, S or 1, T, D)
        h = ops.silu(self.gate(h)) * self.up(h)  # (..., intermediate_dim)
        h = self.dropout_layer(self.down(h), **mode)
        x = gated_sum(x, h, gate_m)  # (B, S or 1, T, D)
        return x if cache is None else (x, cache)

    def _coming_out(self, *tensors):
        """Each tensor's streams that are returned, all or the last one."""
        if not self.last_only:
            return tensors
        return [t if t is None else t[:, -1:] for t in tensors]

    def compute_output_spec(self, x, noise=None, cache=None, index=0, **kwargs):
        batch, streams, *rest = x.shape
        shape = (batch, 1 if self.last_only else streams, *rest)
        spec = keras.KerasTensor(shape, dtype=self.compute_dtype)
        return spec if cache is None else (spec, cache)
