"""What the tests of training share: the smallest network with every part.

Tracing and compiling a step takes longer than running it, and as long as the
network has operations. Where a test is not about transformers, this is enough.
"""

import keras
from keras import layers, ops

from helpers.small_vit import data, equal, refused, state, values
from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import LabelEmbedding

__all__ = [
    "data",
    "equal",
    "make",
    "refused",
    "state",
    "three_blocks",
    "values",
]


@keras.saving.register_keras_serializable(package="small_mlp")
class Stem(layers.Layer):
    """From the noisy label `(B, D)` and the image to the first state."""

    def build(self, noisy_shape, condition_shape):
        height, width, channels = condition_shape[1:]
        self.size = height * width * channels
        self.dense = layers.Dense(noisy_shape[-1], name="dense")
        self.dense.build((None, noisy_shape[-1] + self.size))

    def call(self, noisy, condition):
        flat = ops.reshape(condition, (-1, self.size))
        flat = ops.cast(flat, self.compute_dtype)
        noisy = ops.cast(noisy, self.compute_dtype)
        return self.dense(ops.concatenate([noisy, flat], -1))


@keras.saving.register_keras_serializable(package="small_mlp")
class ResidualLayer(layers.Layer):
    """`x + dropout(W gelu(V x + U noise))`."""

    def __init__(self, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.dropout = dropout

    def build(self, x_shape, noise_shape):
        dtype = {"dtype": self.dtype_policy}
        width = x_shape[-1]
        self.inner = layers.Dense(width, name="inner", **dtype)
        self.noise = layers.Dense(width, name="noise", **dtype)
        self.outer = layers.Dense(width, name="outer", **dtype)
        self.dropout_layer = layers.Dropout(self.dropout, **dtype)
        self.inner.build(x_shape)
        self.noise.build(noise_shape)
        self.outer.build(x_shape)

    def call(self, x, noise, training=None):
        h = ops.gelu(self.inner(x) + self.noise(noise))
        return x + self.dropout_layer(self.outer(h), training=training)

    def get_config(self):
        return {**super().get_config(), "dropout": self.dropout}


@keras.saving.register_keras_serializable(package="small_mlp")
class SmallMLP(DiffusionBlocks):
    """Classifies images `(N, 8, 8, 1)` of four kinds."""

    default_on_policy = 1.0

    def __init__(self, width=8, dropout=0.0, **kwargs):
        super().__init__(**{"num_layers": 2, "num_blocks": 2, **kwargs})
        self.width = width
        self.dropout = dropout

    def condition_spec(self):
        return keras.KerasTensor((None, 8, 8, 1))

    def make_target(self):
        return LabelEmbedding(4, self.width)

    def make_stem(self):
        return Stem()

    def make_layer(self, index):
        return ResidualLayer(self.dropout)

    def make_head(self):
        return layers.Dense(4)


def make(initial=0, **kwargs):
    """Same sizes every time; `initial` decides the first weights."""
    keras.utils.set_random_seed(initial)
    return SmallMLP(**kwargs)


def three_blocks(**kwargs):
    """Built, one layer a block."""
    model = make(1, **{"num_layers": 3, "num_blocks": 3, **kwargs})
    model.build()
    return model
