"""A residual CNN with batch normalization, by composition: digits.

    KERAS_BACKEND=jax python examples/residual_cnn.py

Each block meets a fixed range of noise, so its layers' moving statistics are
its own. Those of a norm in the stem or the readout would mix all blocks
unless each has its own (`sharing="targets"`).
"""

import keras
from keras import layers

from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import LabelEmbedding

WIDTH = 16


@keras.saving.register_keras_serializable(package="residual_cnn")
class Stem(layers.Layer):
    """The image's features, and the noisy label added to every pixel."""

    def build(self, noisy_shape, condition_shape):
        self.features = layers.Conv2D(WIDTH, 3, padding="same")
        self.features.build(condition_shape)
        self.label = layers.Dense(WIDTH)
        self.label.build(noisy_shape)

    def call(self, noisy, condition):
        return self.features(condition) + self.label(noisy)[:, None, None, :]


def residual_layer():
    """A pre-activation residual unit. It sees one step in `num_blocks`."""
    x = state = keras.Input((8, 8, WIDTH))
    for _ in range(2):
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        x = layers.Conv2D(WIDTH, 3, padding="same", use_bias=False)(x)
    return keras.Model(state, state + x)


def main(epochs=20):
    """Trains, and returns the test set's accuracy after each block."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    model = DiffusionBlocks(
        target=LabelEmbedding(10, WIDTH),
        stem=Stem(),
        layers=[residual_layer() for _ in range(6)],
        readout=keras.Sequential(
            [layers.ReLU(), layers.Flatten(), layers.Dense(WIDTH)]
        ),
        head=layers.Dense(10),
        num_blocks=3,
        condition=keras.KerasTensor((None, 8, 8, 1)),
    )
    # Norms then learn from what inference hands a block, and nothing else.
    model.compile(keras.optimizers.AdamW(3e-3), on_policy=1.0)
    model.fit(x[:1500], y[:1500], batch_size=50, epochs=epochs, verbose=0)
    steps = model.predict_steps(x[1500:]).argmax(-1)
    found = [float((step == y[1500:]).mean()) for step in steps]
    after = ", ".join(f"{100 * accuracy:.1f}" for accuracy in found)
    print(f"accuracy after each block: {after} %")
    return found


if __name__ == "__main__":
    main()
