"""Embeds the patches of images as tokens."""

from typing import Any

import keras
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured


@keras.saving.register_keras_serializable(package="keras_dblocks")
class PatchEmbedding(Configured, keras.layers.Layer):
    """Maps each non-overlapping patch to one token, row by row.

    Args:
        patch_size: int. Side of a patch in pixels.
        hidden_dim: int. Width of a token.

    Call arguments:
        images: tensor `(B, H, W, C)`. H and W are multiples of `patch_size`.

    Returns:
        Tensor `(B, H * W / patch_size ** 2, hidden_dim)`.

    Example:

    ```python
    PatchEmbedding(4, 32)(np.zeros((2, 16, 16, 3)))  # (2, 16, 32)
    ```
    """

    def __init__(self, patch_size: int, hidden_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_sizes(patch_size=patch_size, hidden_dim=hidden_dim)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim

    def build(self, images_shape):
        # On a CPU one matrix product is faster than a convolution whose stride
        # is its size. The kernel starts as that convolution's would.
        area, channels = self.patch_size**2, images_shape[-1]
        limit = (6 / (area * (channels + self.hidden_dim))) ** 0.5
        self.dense = keras.layers.Dense(
            self.hidden_dim,
            kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build((None, None, area * channels))

    def call(self, images):
        _, height, width, channels = images.shape
        side = self.patch_size
        rows, columns = height // side, width // side
        x = ops.reshape(images, (-1, rows, side, columns, side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows * columns, side * side * channels))
        return self.dense(x)  # (B, T, D)

    def compute_output_shape(self, images_shape):
        batch, height, width = images_shape[:3]
        tokens = (height // self.patch_size) * (width // self.patch_size)
        return (batch, tokens, self.hidden_dim)
