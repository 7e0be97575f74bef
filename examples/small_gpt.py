"""A small causal GPT of bytes; `python examples/small_gpt.py` runs it."""

from pydoc_data.topics import topics  # Python's own manual

import keras
import numpy as np
from keras import layers, ops

from keras_dblocks import ComposedBlocks, Target

LENGTH, WIDTH = 32, 128  # a row for each ASCII byte, of that width


@keras.saving.register_keras_serializable("small_gpt")
class NextBytes(Target):  # the clean signal of a byte is its unit vector
    signal_shape = (LENGTH, WIDTH)

    def call(self, x):
        return ops.one_hot(x, WIDTH, dtype="float32")

    def bridge(self, prediction):
        return ops.softmax(prediction)

    def loss(self, x, prediction, noisy, level):
        loss = keras.losses.sparse_categorical_crossentropy(x, prediction, True)
        return ops.mean(loss, -1)


@keras.saving.register_keras_serializable("small_gpt")
class Stem(layers.Layer):  # slot t: byte t, and a noisy row of the next one
    def call(self, noisy, condition):
        return noisy + ops.one_hot(condition, WIDTH)


@keras.saving.register_keras_serializable("small_gpt")
class SmallGPT(ComposedBlocks):
    def generate(self, prompt, count=60, seed=0):
        rng, text = np.random.default_rng(seed), list(prompt.encode())
        for _ in range(count):
            x = np.array([(text[-LENGTH:] + [0] * LENGTH)[:LENGTH]])
            logits = self.predict(x, verbose=0)[0][: len(text)][-1]
            text.append(int((logits + rng.gumbel(size=WIDTH)).argmax()))
        return bytes(text).decode()


def causal_layer():
    state = keras.Input((LENGTH, WIDTH))
    h = layers.LayerNormalization()(state)
    x = state + layers.MultiHeadAttention(4, 16)(h, h, use_causal_mask=True)
    h = layers.Conv1D(WIDTH, 3, 1, "causal")(layers.LayerNormalization()(x))
    return keras.Model(state, x + layers.Dense(WIDTH)(ops.gelu(h)))


def main(epochs=10):
    """Trains; returns nats a byte of test text, and by frequencies alone."""
    text = " ".join(topics.values()).encode("ascii", "ignore")[: 6000 * 33]
    rows = np.frombuffer(text, "uint8").reshape(6000, 33).astype("int32")
    model = SmallGPT(
        target=NextBytes(),
        stem=Stem(),
        layers=[causal_layer() for _ in range(3)],
        head=layers.Dense(WIDTH),
        num_blocks=3,
        condition=keras.KerasTensor((None, LENGTH), "int32"),
    )
    model.compile(keras.optimizers.AdamW(3e-3), on_policy=1.0)
    x, y = rows[:, :-1], rows[:, 1:]
    model.fit(x[:5000], y[:5000], batch_size=64, epochs=epochs, verbose=0)
    found = model.evaluate(x[5000:], y[5000:], verbose=0, return_dict=True)
    share = np.unique(rows, return_counts=True)[1] / rows.size
    alone = -float((share * np.log(share)).sum())
    nats, text = found["block_2_loss"], model.generate("The statement ")
    print(f"nats a byte {nats:.2f}; by frequencies {alone:.2f}\n{text}")
    return nats, alone


if __name__ == "__main__":
    main()
