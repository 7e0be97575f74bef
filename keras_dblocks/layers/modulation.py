"""Shifts, scales and gates that are functions of the noise level."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured

SILU_IS_ONE = 1.2784645  # silu(1.2784645) = 1


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Modulation(Configured, keras.layers.Layer):
    """Linear maps of the embedded noise level, one for each shift or scale.

    All kernels start at zero, so the maps start as constants.

    Args:
        num_maps: int.
        ones: tuple of ints. Numbers of the maps that start at 1; the others
            start at 0.
        silu: `"before"` or `"after"`, where silu stands relative to the linear
            map. Defaults to `"before"`, as in DiT; the reference's ViT has
            it after.

    Call arguments:
        noise: tensor `(B, ..., noise_dim)`, the embedded noise level.
        x: tensor `(B, ..., D)` that is to be modulated.

    Returns:
        List of `num_maps` tensors that broadcast to `x`, with D features and
        the rank of `x`.

    Example:

    ```python
    noise, x = np.zeros((2, 16)), np.ones((2, 5, 8))
    shift, scale = Modulation(2, ones=(1,))(noise, x)  # (2, 1, 8) each
    ```

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), Section 3.2
    """

    def __init__(
        self,
        num_maps: int,
        ones: Sequence[int] = (),
        silu: str = "before",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_maps=num_maps)
        self.num_maps = num_maps
        self.ones = tuple(ones)
        self.silu = silu

    def build(self, noise_shape, x_shape):
        constants = np.zeros((self.num_maps, x_shape[-1]), "float32")
        constants[list(self.ones)] = (
            1.0 if self.silu == "before" else SILU_IS_ONE
        )
        self.dense = keras.layers.Dense(
            constants.size,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(constants.ravel()),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(noise_shape)

    def call(self, noise, x):
        if self.silu == "before":
            maps = self.dense(ops.silu(noise))
        else:
            maps = ops.silu(self.dense(noise))
        broadcast = (1,) * (len(x.shape) - len(noise.shape))
        shape = (-1, *noise.shape[1:-1], *broadcast, maps.shape[-1])
        return ops.split(ops.reshape(maps, shape), self.num_maps, axis=-1)


def modulate(x, shift, scale):
    """Scales `x` by `1 + scale` and shifts it."""
    return x * (1 + scale) + shift
