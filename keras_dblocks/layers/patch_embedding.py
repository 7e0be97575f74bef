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
        self.projection = keras.layers.Conv2D(
            self.hidden_dim,
            self.patch_size,
            strides=self.patch_size,
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build(images_shape)

    def call(self, images):
        x = self.projection(images)  # (B, H/P, W/P, D)
        tokens = x.shape[1] * x.shape[2]
        return ops.reshape(x, (-1, tokens, self.hidden_dim))  # (B, T, D)

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
