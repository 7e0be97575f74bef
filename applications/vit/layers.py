"""Stem and readout of a vision transformer."""

# B batch, T tokens, D hidden_dim

import keras
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.layers import PatchEmbedding


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ViTStem(Configured, keras.layers.Layer):
    """Puts a first token before the patches and adds learned positions.

    Args:
        patch_size, hidden_dim: int.
        dropout: float.

    Call arguments:
        first: tensor `(B, D)`, the scaled noisy label (or class token).
        condition: images `(B, H, W, C)`.

    Returns:
        Tensor `(B, 1 + T, D)`.
    """

    def __init__(self, patch_size, hidden_dim, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.dropout = dropout

    def build(self, first_shape, condition_shape):
        self.patches = PatchEmbedding(
            self.patch_size,
            self.hidden_dim,
            dtype=self.dtype_policy,
            name="patches",
        )
        self.patches.build(condition_shape)
        tokens = self.patches.compute_output_shape(condition_shape)[1]
        self.positions = self.add_weight(
            shape=(1, 1 + tokens, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy
        )

    def call(self, first, condition, training=None):
        x = self.patches(condition)  # (B, T, D)
        x = ops.concatenate([ops.expand_dims(first, 1), x], 1)
        return self.dropout_layer(x + self.positions, training=training)

    def compute_output_shape(self, first_shape, condition_shape):
        patches = self.patches.compute_output_shape(condition_shape)
        return (patches[0], patches[1] + 1, self.hidden_dim)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class FirstToken(keras.layers.Layer):
    """Layer norm of the first token: `(B, T, D)` to `(B, D)`."""

    def build(self, x_shape):
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-12, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(x_shape)

    def call(self, x):
        # The other tokens are not needed, so they are not normed.
        return self.norm(x[:, 0])

    def compute_output_shape(self, x_shape):
        return (x_shape[0], x_shape[-1])
