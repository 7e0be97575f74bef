"""The end-to-end twin, the same transformer without noise or blocks."""

import keras

from keras_dblocks.applications.images.sizes import check_patches
from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured
from keras_dblocks.layers import TransformerLayer

from .layers import FirstToken, ViTStem


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ClassToken(Configured, keras.layers.Layer):
    """A learned vector, repeated for each example: `(B, ...)` to `(B, D)`.

    Args:
        hidden_dim: int. D.
    """

    def __init__(self, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim

    def build(self, x_shape):
        self.token = self.add_weight(
            shape=(1, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="token",
        )

    def call(self, x):
        batch = keras.ops.shape(x)[0]
        return keras.ops.broadcast_to(self.token, (batch, self.hidden_dim))

    def compute_output_shape(self, x_shape):
        return (x_shape[0], self.hidden_dim)


def vit_twin(
    image_size=32,
    num_classes=100,
    channels=3,
    patch_size=4,
    num_layers=12,
    hidden_dim=128,
    num_heads=4,
    intermediate_dim=None,
    dropout=0.0,
    dtype=None,
    name="vit_end_to_end",
    **_blocks_only,
):
    """ViT with a class token and no noise conditioning.

    The result is a plain functional `keras.Model` from images `(N, H, W, C)`
    to logits `(N, num_classes)`. Its arguments are those of `ViT`; those that
    only concern blocks have no effect.
    """
    check_sizes(num_layers=num_layers)
    check_patches(
        image_size,
        patch_size,
        hidden_dim,
        num_heads,
        num_classes,
        channels,
        intermediate_dim,
    )
    images = keras.Input((image_size, image_size, channels), name="images")
    kwargs = {"dtype": dtype}
    token = ClassToken(hidden_dim, name="class_token", **kwargs)(images)
    stem = ViTStem(patch_size, hidden_dim, dropout, name="stem", **kwargs)
    x = stem(token, images)  # (B, 1 + T, D)
    for index in range(num_layers):
        x = TransformerLayer(
            num_heads,
            intermediate_dim or 4 * hidden_dim,
            dropout,
            conditioned=False,
            name=f"layer_{index}",
            **kwargs,
        )(x)
    x = FirstToken(name="readout", **kwargs)(x)  # (B, D)
    head = keras.layers.Dense(num_classes, name="classifier", **kwargs)
    return keras.Model(images, head(x), name=name)
