"""A small causal GPT of bytes, by composition, with a `generate` of its own.

    KERAS_BACKEND=jax python examples/small_gpt.py

Slot t holds byte t and what is believed of byte t + 1. Later slots attend to
it, but they know that byte, so nothing leaks.
"""

from pydoc_data.topics import topics  # Python's own manual

import keras
import numpy as np
from keras import layers

from keras_dblocks import DiffusionBlocks
from keras_dblocks.layers import TokenEmbedding

LENGTH, WIDTH, BYTES = 32, 64, 128


def stem():
    belief = keras.Input((LENGTH, WIDTH))
    byte = keras.Input((LENGTH,), name="condition", dtype="int32")
    known = layers.Embedding(BYTES, WIDTH)(byte)
    return keras.Model([belief, byte], known + layers.Dense(WIDTH)(belief))


def causal_layer():
    state = keras.Input((LENGTH, WIDTH))
    h = layers.LayerNormalization()(state)
    x = state + layers.MultiHeadAttention(4, 16)(h, h, use_causal_mask=True)
    h = layers.Conv1D(2 * WIDTH, 3, padding="causal", activation="gelu")(
        layers.LayerNormalization()(x)
    )
    return keras.Model(state, x + layers.Dense(WIDTH)(h))


def generate(model, prompt, count=60):
    rng, text = np.random.default_rng(0), list(prompt.encode())
    for _ in range(count):
        x = np.array([(text[-LENGTH:] + [0] * LENGTH)[:LENGTH]])
        logits = model.predict(x, verbose=0)[0][: len(text)][-1]
        text.append(int((logits + rng.gumbel(size=BYTES)).argmax()))
    return bytes(text).decode()


def main(epochs=10, count=60):
    """Trains; returns nats a byte of test text, and by frequencies alone."""
    text = " ".join(topics.values()).encode("ascii", "ignore")[: 6000 * 33]
    rows = np.frombuffer(text, "uint8").reshape(6000, 33).astype("int32")
    model = DiffusionBlocks(
        target=TokenEmbedding(BYTES, WIDTH, LENGTH),
        stem=stem,
        layers=[causal_layer() for _ in range(3)],
        head=layers.Dense(BYTES),
        num_blocks=3,
        condition=keras.KerasTensor((None, LENGTH), "int32"),
        sharing="targets",
    )
    rate = keras.optimizers.AdamW(3e-3)
    model.compile(rate, on_policy=1.0, curriculum="in_sequence")
    x, y = rows[:, :-1], rows[:, 1:]
    model.fit(x[:5000], y[:5000], batch_size=64, epochs=epochs, verbose=0)
    found = model.evaluate(x[5000:], y[5000:], verbose=0, return_dict=True)
    share = np.unique(rows, return_counts=True)[1] / rows.size
    alone = -float((share * np.log(share)).sum())
    nats, text = found["block_2_loss"], generate(model, "The statement ", count)
    print(f"nats a byte {nats:.2f}; by frequencies {alone:.2f}\n{text}")
    return nats, alone


if __name__ == "__main__":
    main()
