"""Keras models of every kind that users have, and data for them."""

import keras
import numpy as np
from keras import layers as kl


def rng():
    return np.random.default_rng(0)


def images(count=8):
    x = rng().normal(size=(count, 8, 8, 2)).astype("float32")
    return x, rng().integers(0, 3, count)


def vectors(count=8):
    x = rng().normal(size=(count, 6)).astype("float32")
    return x, x.sum(-1, keepdims=True)


def residual_cnn():
    """A functional network with statistics, and dropout."""
    x = inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, padding="same", name="stem")(x)
    for i in range(3):
        y = kl.BatchNormalization(name=f"norm_{i}")(x)
        y = kl.Conv2D(4, 3, padding="same", name=f"conv_{i}")(kl.ReLU()(y))
        x = kl.Add()([x, kl.Dropout(0.1, seed=i)(y)])
    x = kl.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, kl.Dense(3, name="head")(x)), images()


def sequential():
    parts = [kl.Dense(6, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((6,)), *parts, kl.Dense(1)]), vectors()


class Layer(kl.Layer):
    """A residual layer of two weighty parts."""

    def build(self, shape):
        self.norm, self.dense = kl.LayerNormalization(), kl.Dense(shape[-1])
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(self.norm(x))


class Encoder(kl.Layer):
    """A layer that holds a list of layers."""

    def __init__(self, depth, **kwargs):
        super().__init__(**kwargs)
        self.parts = [Layer(name=f"layer_{i}") for i in range(depth)]

    def build(self, shape):
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Subclassed(keras.Model):
    """Two calls of one part, a weight of its own, and a loss of its own."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.first, self.encoder = kl.Dense(6), Encoder(4, name="encoder")
        self.last = kl.Dense(1, kernel_regularizer="l2")

    def build(self, shape):
        self.shift = self.add_weight(shape=(6,), name="shift")
        self.first.build(shape)
        self.encoder.build(shape)
        self.last.build(shape)

    def call(self, x):
        x = self.first(x) + self.shift
        self.add_loss(0.1 * keras.ops.mean(x**2))
        return self.last(self.encoder(self.encoder(x)))


def subclassed():
    model = Subclassed()
    x, y = vectors()
    model(x)
    return model, (x, y)


def u_net():
    """Skips that no tensor carries all of, two inputs, two outputs."""
    image, number = keras.Input((8, 8, 2), name="image"), keras.Input((1,))
    down = kl.Conv2D(4, 3, padding="same", activation="relu")(image)
    low = kl.Conv2D(4, 3, padding="same")(kl.AveragePooling2D(2)(down))
    low = low + kl.Reshape((1, 1, 4))(kl.Dense(4)(number))
    up = kl.Concatenate()([down, kl.UpSampling2D()(low)])
    outputs = {
        "image": kl.Conv2D(2, 3, padding="same", name="image_out")(up),
        "number": kl.Dense(1, name="number_out")(
            kl.GlobalAveragePooling2D()(low)
        ),
    }
    x, _ = images()
    number_in = rng().normal(size=(8, 1)).astype("float32")
    model = keras.Model([image, number], outputs)
    return model, ([x, number_in], {"image": x, "number": number_in})


def nested():
    """A model in a model, whose part is used twice."""
    inner = keras.Sequential(
        [keras.Input((6,)), Layer(), Layer()], name="inner"
    )
    inputs = keras.Input((6,))
    outputs = kl.Dense(1)(inner(inner(Layer()(inputs))))
    return keras.Model(inputs, outputs), vectors()


NETWORKS = {
    "cnn": (residual_cnn, "sparse_categorical_crossentropy"),
    "sequential": (sequential, "mse"),
    "subclassed": (subclassed, "mse"),
    "u_net": (u_net, {"image": "mse", "number": "mae"}),
    "nested": (nested, "mse"),
}


def make(kind):
    """A network, its data, and its loss."""
    keras.utils.set_random_seed(0)
    function, loss = NETWORKS[kind]
    model, data = function()
    if kind == "cnn":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, data, loss
