"""A pre-norm transformer layer, with or without noise conditioning."""

# B batch, T tokens, D width

from typing import Any

import keras
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured
from keras_dblocks.layers.activated_dense import ActivatedDense
from keras_dblocks.layers.adaptive_normalization import AdaptiveNormalization
from keras_dblocks.layers.gated_residual import GatedResidual, gated_sum
from keras_dblocks.layers.modulation import Modulation
from keras_dblocks.layers.self_attention import SelfAttention


@keras.saving.register_keras_serializable(package="keras_dblocks")
class TransformerLayer(Configured, keras.layers.Layer):
    """Self-attention and a perceptron, each after a layer norm.

    With `conditioned=True`, six maps of the noise embedding shift and scale
    the norms and gate the two sublayers (adaptive layer norm). `silu` comes
    after the linear map as in the published ViT code (`modulation="after"`)
    or before it as in DiT (`"before"`).

    Args:
        num_heads: int.
        intermediate_dim: int. Width of the perceptron.
        dropout: float. Dropout after each sublayer and of the attention
            weights. Defaults to `0.0`.
        epsilon: float. Epsilon of the layer norms. Defaults to `1e-12`.
        activation: name. Defaults to `"gelu"`, the exact one; `"gelu_tanh"`
            is the approximation that DiT uses.
        affine: bool. Whether the norms have a learned scale and shift; DiT's
            have none. Defaults to True.
        rotary: bool. Whether the attention uses rotary positions. Defaults to
            False.
        conditioned: bool. Whether the noise level modulates the layer.
            Defaults to True.
        modulation: `"after"` or `"before"`. Defaults to `"after"`.
        open_gates: bool. True starts the gates at 1, so that the layer starts
            as an ordinary transformer layer. False starts them at 0, so that
            it starts as the identity (adaLN-Zero of DiT). Defaults to False.

    Call arguments:
        x: tensor `(B, T, D)`.
        noise: tensor `(B, noise_dim)`, needed if `conditioned`.

    Returns:
        Tensor `(B, T, D)`.

    Example:

    ```python
    layer = TransformerLayer(num_heads=2, intermediate_dim=32)
    layer(np.ones((2, 5, 8)), noise=np.zeros((2, 16)))  # (2, 5, 8)
    ```

    References:
     - [ViT](https://arxiv.org/abs/2010.11929)
     - [DiT](https://arxiv.org/abs/2212.09748), Section 3.2
    """

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        epsilon: float = 1e-12,
        activation: str = "gelu",
        conditioned: bool = True,
        modulation: str = "after",
        open_gates: bool = False,
        affine: bool = True,
        rotary: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_heads=num_heads, intermediate_dim=intermediate_dim)
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
        dtype = {"dtype": self.dtype_policy}
        wide_shape = (*x_shape[:-1], self.intermediate_dim)
        norm = {"epsilon": self.epsilon, "affine": self.affine, **dtype}
        # The activations that noise conditioning adds to those of a plain
        # layer are computed again in the backward pass.
        recompute = {"recompute": self.conditioned}
        self.attention_norm = AdaptiveNormalization(
            "layer", name="attention_norm", **norm, **recompute
        )
        self.mlp_norm = AdaptiveNormalization(
            "layer", name="mlp_norm", **norm, **recompute
        )
        self.attention = SelfAttention(
            self.num_heads, self.dropout, self.rotary, name="attention", **dtype
        )
        self.attention_output = GatedResidual(
            dropout=self.dropout,
            recompute=self.conditioned and not self.dropout,
            name="attention_output",
            **dtype,
        )
        self.intermediate = ActivatedDense(
            self.intermediate_dim,
            _gelu_tanh if self.activation == "gelu_tanh" else self.activation,
            name="intermediate",
            **dtype,
            **recompute,
        )
        self.output_dense = keras.layers.Dense(
            x_shape[-1], name="output", **dtype
        )
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, name="dropout", **dtype
        )
        self.attention_norm.build(x_shape)
        self.mlp_norm.build(x_shape)
        self.attention.build(x_shape)
        self.attention_output.build(x_shape, x_shape)
        self.intermediate.build(x_shape)
        self.output_dense.build(wide_shape)
        if self.conditioned:
            self.modulation_maps = Modulation(
                6,  # shift, scale and gate of each sublayer
                ones=(2, 5) if self.open_gates else (),
                silu=self.modulation,
                name="modulation",
                **dtype,
            )
            self.modulation_maps.build(noise_shape, x_shape)

    def call(self, x, noise=None, training=None):
        maps = [None] * 6
        if self.conditioned:
            maps = self.modulation_maps(noise, x)  # each (B, 1, D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = maps
        mode = {"training": training}
        h = self.attention_norm(x, shift_a, scale_a, **mode)  # (B, T, D)
        h = self.attention(h, **mode)  # (B, T, D)
        x = self.attention_output(x, h, gate_a, **mode)  # (B, T, D)
        h = self.mlp_norm(x, shift_m, scale_m, **mode)  # (B, T, D)
        h = self.intermediate(h, **mode)  # (B, T, intermediate_dim)
        h = self.dropout_layer(self.output_dense(h), **mode)  # (B, T, D)
        return gated_sum(x, h, gate_m)  # (B, T, D)

    def compute_output_shape(self, x_shape, noise_shape=None):
        return x_shape


def _gelu_tanh(x):
    return ops.gelu(x, approximate=True)
