"""Huginn's layer, conditioned on the noise level where it denoises."""

# B batch, S streams, T slots, D width

import keras
from keras import ops

from keras_dblocks.applications.text.causal_attention import CausalAttention
from keras_dblocks.applications.text.layers import modulated_norm
from keras_dblocks.rematerialization import as_tensor

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
        cache, index: see `CausalAttention`.

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
            name = f"norm_{i}"
            norm = keras.layers.RMSNormalization(name=name, **kwargs)
            setattr(self, name, norm)
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
        maps = ()
        if self.conditioned:
            maps = self.modulation(ops.silu(noise))  # (B, 4 D)
            maps = ops.split(maps[:, None, None], 4, axis=-1)
        # Element by element, so computed again in the backward pass: less to
        # keep, and no slower.
        again = keras.remat if training else lambda function: function

        def norm(number, x, *maps):
            layer = getattr(self, f"norm_{number}")
            gain = as_tensor(layer.scale, x.dtype)
            return again(modulated_norm)(x, gain, *maps)

        h = norm(1, x, *maps[:2])
        h, cache = self.attention(h, cache=cache, index=index)
        x = norm(2, x + self.attention_output(h))
        h = again(_gated)(self.fc(norm(3, x, *maps[2:])))
        x = norm(4, x + self.down(h))
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


def _gated(h):
    gate, up = ops.split(h, 2, axis=-1)
    return ops.silu(gate) * up
