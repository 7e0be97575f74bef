"""A pre-norm transformer layer, with or without noise conditioning."""

import keras
import numpy as np
from keras import ops

from keras_dblocks.layers.self_attention import SelfAttention
from keras_dblocks.rematerialization import as_tensor

SILU_IS_ONE = 1.2784645  # silu(1.2784645) = 1


@keras.saving.register_keras_serializable(package="keras_dblocks")
class TransformerLayer(keras.layers.Layer):
    """Self-attention and a perceptron, each behind a layer norm.

    With `conditioned=True` six maps of the noise embedding shift and scale
    the norms and gate the two sublayers (adaptive layer norm). `silu` comes
    after the linear map as in the published ViT code (`modulation="after"`)
    or before it as in DiT (`"before"`).

    Args:
        num_heads: int.
        intermediate_dim: int. Width of the perceptron.
        dropout: float. After each sublayer and on the attention weights.
        epsilon: float. Of the layer norms.
        activation: name. Defaults to `"gelu"`, the exact one; `"gelu_tanh"`
            is the approximation that DiT uses.
        affine: bool. Learned scale and shift in the norms; DiT has none.
            Defaults to True.
        rotary: bool. Rotary positions in the attention. Defaults to False.
        conditioned: bool. Defaults to True.
        modulation: `"after"` or `"before"`. Defaults to `"after"`.
        open_gates: bool. True starts the gates at 1, so that the layer starts
            as an ordinary transformer layer; False at 0, as the identity
            (adaLN-Zero of DiT). Defaults to False.

    Call arguments:
        x: tensor `(B, T, D)`.
        noise: tensor `(B, noise_dim)`, when conditioned.

    Returns:
        Tensor `(B, T, D)`.

    References:
     - [ViT](https://arxiv.org/abs/2010.11929)
     - [DiT](https://arxiv.org/abs/2212.09748), Section 3.2
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        dropout=0.0,
        epsilon=1e-12,
        activation="gelu",
        conditioned=True,
        modulation="after",
        open_gates=False,
        affine=True,
        rotary=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if modulation not in ("after", "before"):
            raise ValueError(
                '`modulation` must be "after" or "before". '
                f'Received: modulation={modulation!r}. Use "before" for DiT.'
            )
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.epsilon = epsilon
        self.activation = activation
        self.conditioned = conditioned
        self.modulation = modulation
        self.open_gates = open_gates
        self.affine = affine
        self.rotary = rotary

    def build(self, x_shape, noise_shape=None):
        dim = x_shape[-1]
        kwargs = {"dtype": self.dtype_policy}
        norm = {"center": self.affine, "scale": self.affine}
        norm = {"epsilon": self.epsilon, **norm, **kwargs}
        norm_class = keras.layers.LayerNormalization
        self.attention_norm = norm_class(name="attention_norm", **norm)
        self.mlp_norm = norm_class(name="mlp_norm", **norm)
        self.attention = SelfAttention(
            self.num_heads,
            self.dropout,
            self.rotary,
            name="attention",
            **kwargs,
        )
        self.attention_output = keras.layers.Dense(
            dim, name="attention_output", **kwargs
        )
        self.intermediate = keras.layers.Dense(
            self.intermediate_dim,
            activation=_gelu_tanh
            if self.activation == "gelu_tanh"
            else self.activation,
            name="intermediate",
            **kwargs,
        )
        self.output_dense = keras.layers.Dense(dim, name="output", **kwargs)
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, name="dropout", **kwargs
        )
        self.attention_norm.build(x_shape)
        self.mlp_norm.build(x_shape)
        self.attention.build(x_shape)
        self.attention_output.build(x_shape)
        self.intermediate.build(x_shape)
        self.output_dense.build((*x_shape[:-1], self.intermediate_dim))
        if self.conditioned:
            self.modulation_dense = keras.layers.Dense(
                6 * dim,
                kernel_initializer="zeros",
                bias_initializer=self._modulation_bias(dim),
                name="modulation",
                **kwargs,
            )
            self.modulation_dense.build(noise_shape)

    def _modulation_bias(self, dim):
        if not self.open_gates:
            return "zeros"
        one = SILU_IS_ONE if self.modulation == "after" else 1.0
        maps = np.zeros((6, dim), "float32")
        maps[[2, 5]] = one  # shift, scale, gate of each sublayer
        return keras.initializers.Constant(maps.reshape(-1))

    def call(self, x, noise=None, training=None):
        if not self.conditioned:
            h = self.attention(self.attention_norm(x), training=training)
            x = x + self._drop(self.attention_output(h), training)
            h = self._widen(self.mlp_norm(x), training)
            return x + self._drop(self.output_dense(h), training)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._maps(noise)
        h = self._modulate(self.attention_norm, x, shift_a, scale_a, training)
        h = self.attention(h, training=training)
        x = self._add(self.attention_output, x, h, gate_a, training)
        h = self._modulate(self.mlp_norm, x, shift_m, scale_m, training)
        h = self.output_dense(self._widen(h, training))
        return x + gate_m * self._drop(h, training)

    def _maps(self, noise):
        if self.modulation == "after":
            maps = ops.silu(self.modulation_dense(noise))
        else:
            maps = self.modulation_dense(ops.silu(noise))
        maps = ops.expand_dims(maps, 1)  # (B, 1, 6 D)
        return ops.split(maps, 6, axis=-1)

    def _modulate(self, norm, x, shift, scale, training):
        # In training the norm is computed again in the backward pass: what
        # conditioning adds to the activations of a plain layer is not kept.
        def modulate(x, shift, scale, *affine):
            h = ops.layer_normalization(
                x, *affine, axis=-1, epsilon=self.epsilon
            )
            return h * (1 + scale) + shift

        modulate = keras.remat(modulate) if training else modulate
        affine = (norm.gamma, norm.beta) if self.affine else ()
        return modulate(
            x, shift, scale, *(as_tensor(v, x.dtype) for v in affine)
        )

    def _add(self, dense, x, h, gate, training):
        def add(x, h, kernel, bias, gate):
            return x + gate * (ops.matmul(h, kernel) + bias)

        if training and self.dropout:  # a second draw would differ
            return x + gate * self._drop(dense(h), training)
        add = keras.remat(add) if training else add
        return add(x, h, *_weights(dense, h.dtype), gate)

    def _widen(self, x, training):
        dense = self.intermediate
        on_torch = keras.backend.backend() == "torch"
        # An unconditioned layer elsewhere is computed as anyone would.
        if not training or not (self.conditioned or on_torch):
            return dense(x)
        kernel, bias = _weights(dense, x.dtype)
        if not on_torch:
            # What the activation computes on its way is not kept; on torch it
            # is one operation that keeps nothing.
            x = ops.matmul(x, kernel) + bias
            return keras.remat(dense.activation)(x)
        # The bias as one more row: run eagerly, adding it takes a pass over
        # the widest array, and so does its gradient.
        weights = ops.concatenate([kernel, ops.expand_dims(bias, 0)], 0)
        x = ops.concatenate([x, ops.ones_like(x[..., :1])], -1)
        return dense.activation(ops.matmul(x, weights))

    def _drop(self, x, training):
        return self.dropout_layer(x, training=training)

    def compute_output_shape(self, x_shape, noise_shape=None):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "activation": self.activation,
            "conditioned": self.conditioned,
            "modulation": self.modulation,
            "open_gates": self.open_gates,
            "affine": self.affine,
            "rotary": self.rotary,
        }


def _weights(dense, dtype):
    """Kernel and bias."""
    return [as_tensor(v, dtype) for v in (dense.kernel, dense.bias)]


def _gelu_tanh(x):
    return ops.gelu(x, approximate=True)
