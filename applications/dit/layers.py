"""Embeddings and final layer of DiT, around its transformer layers."""

# B batch, T tokens, D hidden_dim, P patch_size, C channels

import keras
import numpy as np
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.layers import (
    AdaptiveNormalization,
    Embedding,
    Modulation,
    NoiseEmbedding,
    PatchEmbedding,
)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ClassAndNoiseEmbedding(Configured, keras.layers.Layer):
    """Embeds noise level and class and adds the two.

    Args:
        num_classes: int.
        hidden_dim: int. D.
        class_dropout: float. In training, share of labels replaced by the
            null class, `num_classes`; 0 for no null class.

    Call arguments:
        c_noise: float32 tensor `(B,)`.
        condition: int tensor `(B,)`, labels.

    Returns:
        Tensor `(B, D)`.
    """

    def __init__(self, num_classes, hidden_dim, class_dropout=0.1, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_classes = num_classes
        self.hidden_dim = hidden_dim
        self.class_dropout = class_dropout
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, c_noise_shape, condition_shape):
        kwargs = {"dtype": self.dtype_policy}
        self.noise = NoiseEmbedding(
            self.hidden_dim, output_activation=None, name="noise", **kwargs
        )
        self.classes = Embedding(
            self.num_classes + (self.class_dropout > 0),
            self.hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="classes",
            **kwargs,
        )
        self.noise.build(c_noise_shape)
        self.classes.build(condition_shape)

    def call(self, c_noise, condition, training=False):
        labels = ops.cast(condition, "int32")
        if training and self.class_dropout:
            draw = keras.random.uniform(
                ops.shape(labels), dtype="float32", seed=self.seed_generator
            )
            null = ops.full_like(labels, self.num_classes)
            labels = ops.where(draw < self.class_dropout, null, labels)
        return self.noise(c_noise) + self.classes(labels)  # (B, D)

    def compute_output_shape(self, c_noise_shape, condition_shape):
        return (c_noise_shape[0], self.hidden_dim)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class DiTStem(Configured, keras.layers.Layer):
    """Adds fixed positions to patches: `(B, H, W, C)` to `(B, T, D)`.

    Args:
        patch_size, hidden_dim: int.
    """

    def __init__(self, patch_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim

    def build(self, images_shape):
        self.patches = PatchEmbedding(
            self.patch_size,
            self.hidden_dim,
            dtype=self.dtype_policy,
            name="patches",
        )
        self.patches.build(images_shape)
        side = images_shape[1] // self.patch_size
        self.positions = positions(side, self.hidden_dim)  # (T, D), fixed

    def call(self, images):
        x = self.patches(images)
        return x + ops.convert_to_tensor(self.positions, dtype=x.dtype)

    def compute_output_shape(self, images_shape):
        return self.patches.compute_output_shape(images_shape)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class DiTReadout(Configured, keras.layers.Layer):
    """Final layer of modulated norm and linear map, from patches to images.

    Args:
        patch_size, channels: int.

    Call arguments:
        x: tensor `(B, T, D)`.
        noise: tensor `(B, D)`.

    Returns:
        Tensor `(B, H, W, C)`.
    """

    def __init__(self, patch_size, channels, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.channels = channels

    def build(self, x_shape, noise_shape):
        dtype = {"dtype": self.dtype_policy}
        self.norm = AdaptiveNormalization(
            "layer", affine=False, name="norm", **dtype
        )
        self.modulation = Modulation(2, name="modulation", **dtype)
        self.linear = keras.layers.Dense(
            self.patch_size**2 * self.channels,
            kernel_initializer="zeros",
            name="linear",
            **dtype,
        )
        self.norm.build(x_shape)
        self.modulation.build(noise_shape, x_shape)
        self.linear.build(x_shape)

    def call(self, x, noise):
        shift, scale = self.modulation(noise, x)  # each (B, 1, D)
        x = self.linear(self.norm(x, shift, scale))  # (B, T, P * P * C)
        side, patch = round(x.shape[1] ** 0.5), self.patch_size
        x = ops.reshape(x, (-1, side, side, patch, patch, self.channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        size = side * patch
        return ops.reshape(x, (-1, size, size, self.channels))

    def compute_output_shape(self, x_shape, noise_shape):
        size = round(x_shape[1] ** 0.5) * self.patch_size
        return (x_shape[0], size, size, self.channels)


def positions(side, dim):
    """Sine-cosine positions of a square grid, `(side * side, dim)` float32.

    The column takes the first half of `dim` and the row the second, as in MAE
    and DiT.
    """
    rates = 10000.0 ** -(np.arange(dim // 4) / (dim / 4.0))
    rows, columns = np.mgrid[:side, :side].reshape(2, -1)  # row-major
    halves = []
    for place in (columns, rows):
        angles = place[:, None] * rates
        halves += [np.sin(angles), np.cos(angles)]
    return np.concatenate(halves, 1).astype("float32")
