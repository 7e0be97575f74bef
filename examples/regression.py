"""A regression by composition: progression of diabetes from ten features.

    KERAS_BACKEND=jax python examples/regression.py

The clean signal is the number itself, and the loss the squared error.
`value_range` maps it to [-1, 1] for the noise; predictions and metrics are in
the data's own units.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import ContinuousSignal

WIDTH = 64


@keras.saving.register_keras_serializable(package="regression")
class Stem(layers.Layer):
    """From the noisy number and the features to the first state."""

    def build(self, noisy_shape, condition_shape):
        self.dense = layers.Dense(WIDTH)
        self.dense.build((None, noisy_shape[-1] + condition_shape[-1]))

    def call(self, noisy, condition):
        return self.dense(ops.concatenate([noisy, condition], -1))


def residual_layer():
    """A residual Keras model that keeps its shape."""
    state = keras.Input((WIDTH,))
    x = layers.LayerNormalization()(state)
    x = layers.Dense(2 * WIDTH, activation="gelu")(x)
    return keras.Model(state, state + layers.Dense(WIDTH)(x))


def main(epochs=30):
    """Trains, and returns the test set's mean squared error and variance."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = x.astype("float32") * 20, y.astype("float32")[:, None]  # (N, 1)
    model = DiffusionBlocks(
        target=ContinuousSignal((1,), value_range=(0.0, 400.0)),
        stem=Stem(),
        layers=[residual_layer() for _ in range(6)],
        readout=layers.Dense(1),
        num_blocks=3,
        condition=keras.KerasTensor((None, 10)),
    )
    error = keras.metrics.MeanSquaredError(name="mse")
    model.compile(keras.optimizers.AdamW(1e-3), metrics=[error])
    model.fit(x[:350], y[:350], batch_size=32, epochs=epochs, verbose=0)
    found = model.evaluate(x[350:], y[350:], return_dict=True, verbose=0)
    print(f"mse {found['mse']:.0f}; variance {np.var(y[350:]):.0f}")
    return found["mse"], float(np.var(y[350:]))


if __name__ == "__main__":
    main()
