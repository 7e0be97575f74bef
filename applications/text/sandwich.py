"""Huginn's layer, optionally conditioned on the noise level."""

# B batch, S streams, T slots, D width

import keras
from keras import ops

from keras_dblocks.applications.text.causal_attention import CausalAttention
from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured
from keras_dblocks.layers import AdaptiveNormalization, Modulation
from keras_dblocks.rematerialization import recomputed_in_training

THETA = 50000.0  # base of Huginn's rotary wavelengths


@keras.saving.register_keras_serializable(package="keras_dblocks")
class SandwichLayer(Configured, keras.layers.Layer):
    """Causal attention and a gated perceptron, normed before and after.

    It computes `x = norm_2(x + attention(norm_1(x)))`, then
    `x = norm_4(x + mlp(norm_3(x)))`. The norm of the state stays the same
    however often the layer is repeated.

    Args:
        num_heads: int.
        intermediate_dim: int. Width of the perceptron.
        conditioned: bool. Whether the noise level shifts and scales the
            outputs of `norm_1` and `norm_3`. False is Huginn's own layer.
            Defaults to True.

    Call arguments:
        x: tensor `(B, S, T, D)`.
        noise: tensor `(B, noise_dim)`, the embedded level.
        cache, index: see `CausalAttention`.

    Returns:
        Tensor `(B, S, T, D)`; with a cache also the new cache.

    References:
     - [Huginn](https://arxiv.org/abs/2502.05171), Section 3.2
     - [DiT](https://arxiv.org/abs/2212.09748), adaptive layer norm
    """

    def __init__(self, num_heads, intermediate_dim, conditioned=True, **kwargs):
        super().__init__(**kwargs)
        check_sizes(num_heads=num_heads, intermediate_dim=intermediate_dim)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.conditioned = conditioned

    def build(self, x_shape, noise_shape=None):
        dim, dtype = x_shape[-1], {"dtype": self.dtype_policy}
        wide_shape = (*x_shape[:-1], self.intermediate_dim)
        # Norms and the gated unit are cheap, so in training they are computed
        # again in the backward pass to keep fewer activations.
        norm = {"recompute": True, **dtype}
        dense = {"use_bias": False, **dtype}
        self.attention = CausalAttention(
            self.num_heads, theta=THETA, bias=True, name="attention", **dtype
        )
        self.norm_1 = AdaptiveNormalization("rms", name="norm_1", **norm)
        self.norm_2 = AdaptiveNormalization("rms", name="norm_2", **norm)
        self.norm_3 = AdaptiveNormalization("rms", name="norm_3", **norm)
        self.norm_4 = AdaptiveNormalization("rms", name="norm_4", **norm)
        self.attention_output = keras.layers.Dense(
            dim, name="attention_output", **dense
        )
        self.fc = keras.layers.Dense(
            2 * self.intermediate_dim, name="fc", **dense
        )
        self.gated_unit = GatedLinearUnit(
            recompute=True, name="gated_unit", **dtype
        )
        self.down = keras.layers.Dense(dim, name="down", **dense)
        for layer in (
            self.attention,
            self.norm_1,
            self.norm_2,
            self.norm_3,
            self.norm_4,
            self.attention_output,
            self.fc,
        ):
            layer.build(x_shape)
        self.gated_unit.build((*x_shape[:-1], 2 * self.intermediate_dim))
        self.down.build(wide_shape)
        if self.conditioned:
            # There is a shift and a scale for each sublayer.
            self.modulation = Modulation(4, name="modulation", **dtype)
            self.modulation.build(noise_shape, x_shape)

    def call(self, x, noise=None, cache=None, index=0, training=None):
        maps = self.modulation(noise, x) if self.conditioned else [None] * 4
        shift_a, scale_a, shift_m, scale_m = maps  # (B, 1, 1, D)
        mode = {"training": training}
        h = self.norm_1(x, shift_a, scale_a, **mode)  # (B, S, T, D)
        h, cache = self.attention(h, cache=cache, index=index)  # (B, S, T, D)
        x = x + self.attention_output(h)  # (B, S, T, D)
        x = self.norm_2(x, **mode)  # (B, S, T, D)
        h = self.norm_3(x, shift_m, scale_m, **mode)  # (B, S, T, D)
        h = self.gated_unit(self.fc(h), **mode)  # (.., intermediate_dim)
        x = self.norm_4(x + self.down(h), **mode)  # (B, S, T, D)
        return x if cache is None else (x, cache)

    def compute_output_spec(self, x, noise=None, cache=None, index=0, **kwargs):
        spec = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        return spec if cache is None else (spec, cache)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class GatedLinearUnit(Configured, keras.layers.Layer):
    """`silu` of the first half of the features times the second half.

    Args:
        recompute: bool. Compute it again in the backward pass, so that a
            training step keeps only its input. Defaults to False.

    Call arguments:
        h: tensor `(..., 2 D)`.

    Returns:
        Tensor `(..., D)`.

    References:
     - [GLU variants](https://arxiv.org/abs/2002.05202)
    """

    def __init__(self, recompute=False, **kwargs):
        super().__init__(**kwargs)
        self.recompute = recompute

    def build(self, h_shape):
        """Does nothing, since the layer has no weights."""

    @recomputed_in_training
    def call(self, h, training=None):
        gate, up = ops.split(h, 2, axis=-1)
        return ops.silu(gate) * up

    def compute_output_shape(self, h_shape):
        return (*h_shape[:-1], h_shape[-1] // 2)
