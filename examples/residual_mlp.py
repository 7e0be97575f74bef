"""Bring your own network: a residual perceptron, trained block by block."""

import keras
import numpy as np
from keras import layers, ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import LabelEmbedding


class Stem(layers.Layer):
    """From the noisy label and the features to the first state."""

    def build(self, noisy_shape, condition_shape):
        self.dense = layers.Dense(noisy_shape[-1])
        self.dense.build((None, noisy_shape[-1] + condition_shape[-1]))

    def call(self, noisy, condition):
        return self.dense(ops.concatenate([noisy, condition], -1))


@keras.saving.register_keras_serializable(package="residual_mlp")
class ResidualMLP(DiffusionBlocks):
    """Classifier of feature vectors `(N, features)`, labels `(N,)`."""

    def __init__(self, features, num_classes, width=32, **kwargs):
        super().__init__(**kwargs)
        self.features = features
        self.num_classes = num_classes
        self.width = width

    def condition_spec(self):
        return keras.KerasTensor((None, self.features))

    def make_target(self):
        return LabelEmbedding(self.num_classes, self.width)

    def make_stem(self):
        return Stem()

    def make_layer(self, index):
        state = keras.Input((self.width,))
        x = layers.LayerNormalization()(state)
        x = layers.Dense(2 * self.width, activation="gelu")(x)
        return keras.Model(state, state + layers.Dense(self.width)(x))

    def make_head(self):
        return layers.Dense(self.num_classes)


def spirals(count, seed):
    """Points `(count, 2)` on three arms of a spiral, and their arms."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, 3, count)
    radius = rng.uniform(0.2, 1.0, count)
    angle = 2 * np.pi * arm / 3 + 4 * radius + rng.normal(0, 0.1, count)
    points = np.stack([np.cos(angle), np.sin(angle)], -1) * radius[:, None]
    return points.astype("float32"), arm.astype("int32")


if __name__ == "__main__":
    model = ResidualMLP(features=2, num_classes=3, num_layers=6, num_blocks=3)
    model.compile(keras.optimizers.AdamW(0.01), metrics=["accuracy"])
    model.fit(*spirals(1000, seed=0), batch_size=100, epochs=15)
    model.evaluate(*spirals(500, seed=1))
