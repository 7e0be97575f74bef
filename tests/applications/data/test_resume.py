"""Batches of a `fit` that is resumed: as if it had never stopped."""

import keras

from keras_dblocks.applications.data import (
    AugmentedDataset,
    RandomChunks,
    augmentation,
    load_images,
    load_text,
)


def test_a_resumed_fit_sees_the_images_it_would_have_seen():
    data = load_images("digits")

    def fit(model, first, epochs):
        train = AugmentedDataset(
            data.x_train[:96],
            data.y_train[:96],
            batch_size=32,
            augment=augmentation("flip_crop", channels=1),
            mean=data.mean,
            std=data.std,
        )
        history = model.fit(
            train,
            initial_epoch=first,
            epochs=epochs,
            verbose=0,
            shuffle=False,
            callbacks=[train.epoch_callback()],
        )
        return history.history["loss"]

    def build():
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
        layers.append(keras.layers.Dense(10, kernel_initializer="zeros"))
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
        return model

    whole = fit(build(), 0, 4)
    model = build()
    losses = fit(model, 0, 2)
    losses += fit(model, 2, 4)
    assert losses == whole
    assert len(set(whole)) == 4


def test_a_resumed_fit_sees_the_text_it_would_have_seen():
    class Norm(keras.Sequential):
        def compute_loss(
            self, x, y=None, y_pred=None, sample_weight=None, training=True
        ):
            return keras.ops.mean(keras.ops.square(y_pred))

    data = load_text("python")

    def fit(model, first, epochs):
        train = RandomChunks(data.train, 16, 8, steps_per_epoch=3)
        told = {"shuffle": False, "callbacks": [train.epoch_callback()]}
        history = model.fit(
            train, initial_epoch=first, epochs=epochs, verbose=0, **told
        )
        return history.history["loss"]

    def build():
        dense = keras.layers.Dense(1, kernel_initializer="ones")
        rescaling = keras.layers.Rescaling(1 / 27)
        model = Norm([keras.Input((16,), dtype="int32"), rescaling, dense])
        model.compile(keras.optimizers.SGD(1e-3))
        return model

    whole = fit(build(), 0, 4)
    model = build()
    assert fit(model, 0, 2) + fit(model, 2, 4) == whole
    assert len(set(whole)) == 4
