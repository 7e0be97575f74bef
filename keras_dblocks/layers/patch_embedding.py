"""Images to patch tokens."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dblocks")
class PatchEmbedding(keras.layers.Layer):
    """Non-overlapping patches, each mapped to one token, row by row.

    Args:
        patch_size: int. Side of a patch in pixels.
        hidden_dim: int. Width of a token.

    Call arguments:
        images: tensor `(B, H, W, C)`; H and W multiples of `patch_size`.

    Returns:
        Tensor `(B, H * W / patch_size ** 2, hidden_dim)`.
    """

    def __init__(self, patch_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim

    def build(self, images_shape):
        # A convolution's kernel, applied as one matrix product: faster on a
        # CPU than a convolution whose stride is its size.
        shape = (self.patch_size, self.patch_size, images_shape[-1])
        self.kernel = self.add_weight(
            shape=(*shape, self.hidden_dim),
            initializer="glorot_uniform",
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.hidden_dim,), initializer="zeros", name="bias"
        )

    def call(self, images):
        _, height, width, channels = images.shape
        side = self.patch_size
        rows, columns = height // side, width // side
        x = ops.reshape(images, (-1, rows, side, columns, side, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        flat = side * side * channels
        x = ops.reshape(x, (-1, rows * columns, flat))  # (B, T, P * P * C)
        kernel = ops.reshape(self.kernel, (flat, self.hidden_dim))
        return ops.matmul(x, kernel) + self.bias  # (B, T, D)

    def compute_output_shape(self, images_shape):
        batch, height, width = images_shape[:3]
        tokens = (height // self.patch_size) * (width // self.patch_size)
        return (batch, tokens, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
        }
