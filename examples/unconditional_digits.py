"""Image diffusion without a condition, by composition: handwritten digits.

    KERAS_BACKEND=jax python examples/unconditional_digits.py

`fit(images)` takes images alone, and `generate(num_samples=...)` makes more.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import ContinuousSignal

WIDTH = 128


def residual_layer():
    """A residual Keras model that keeps its shape."""
    state = keras.Input((WIDTH,))
    x = layers.LayerNormalization()(state)
    x = layers.Dense(2 * WIDTH, activation="gelu")(x)
    return keras.Model(state, state + layers.Dense(WIDTH)(x))


def main(epochs=60):
    """Trains; returns how far samples and data are from the next test image."""
    from sklearn.datasets import load_digits

    images = load_digits().images.astype("float32")[..., None]  # 0 to 16
    model = DiffusionBlocks(
        target=ContinuousSignal((8, 8, 1), value_range=(0.0, 16.0)),
        stem=keras.Sequential([layers.Flatten(), layers.Dense(WIDTH)]),
        layers=[residual_layer() for _ in range(6)],
        readout=keras.Sequential([layers.Dense(64), layers.Reshape((8, 8, 1))]),
        num_blocks=3,
        clean="x",
    )
    # Images differ by their start noise, so blocks train on noised images.
    model.compile(keras.optimizers.AdamW(1e-3), on_policy=0.0)
    model.fit(images[:1500], batch_size=64, epochs=epochs, verbose=0)
    samples = model.generate(num_samples=100, num_steps=24)
    noise = np.random.default_rng(0).uniform(0, 16, samples.shape)
    test = ops.convert_to_numpy(images[1500:]).reshape(-1, 64)
    found = {
        name: float(np.mean([_nearest(row, test) for row in rows]))
        for name, rows in (
            ("samples", samples),
            ("training images", images[:100]),
            ("noise", noise),
        )
    }
    print({name: round(distance, 1) for name, distance in found.items()})
    return found


def _nearest(image, images):
    return np.sqrt(((image.reshape(-1) - images) ** 2).sum(-1)).min()


if __name__ == "__main__":
    main()
