"""Networks whose features the metrics compare images by."""

import os
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.data.sources import unavailable
from keras_dblocks.checks import check_array, check_rows

# N images, H height, W width, C channels, D features. Pixels in [-1, 1].


def feature_network(image_shape, num_classes, seed=0):
    """A small classifier `(N, *image_shape)` to logits; "features" has 64."""
    # float32: a figure must not depend on the precision of what it measures.
    options = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed),
        "dtype": "float32",
    }
    convolution = {"padding": "same", "activation": "relu", **options}
    images = keras.Input(image_shape, dtype="float32")
    x = keras.layers.Conv2D(16, 3, **convolution)(images)
    while max(x.shape[1:3]) > 4:
        filters = min(64, 2 * x.shape[-1])
        x = keras.layers.Conv2D(filters, 3, strides=2, **convolution)(x)
    x = keras.layers.Flatten(dtype="float32")(x)
    # Bounded, so that distances do not grow with the length of the training.
    x = keras.layers.Dense(64, "tanh", name="features", **options)(x)
    logits = keras.layers.Dense(num_classes, **options)(x)
    return keras.Model(images, logits, name="feature_network")


def train_feature_network(
    images, labels, path, num_steps=1500, batch_size=128, seed=0, verbose=1
):
    """Trains a `feature_network` once and keeps it.

    Figures compare over the features of one file alone: keep it with them.

    Args:
        images: float array `(N, H, W, C)` in [-1, 1].
        labels: integer array `(N,)`.
        path: a `.keras` file, written at the end. One that is there is loaded
            instead, whatever it was trained on and for how long.
        num_steps, batch_size: ints. Steps are rounded to whole epochs.
        seed: int, of the weights and of the order of the images.
        verbose: as in `keras.Model.fit`.

    Returns:
        `keras.Model`, images to features `(N, 64)`.
    """
    path, images, labels = Path(path), np.asarray(images), np.asarray(labels)
    check_images(images, (None,) * 4, most=1.001)
    fits = labels.shape == (len(images),) and labels.min() >= 0
    if path.suffix != ".keras" or not fits:
        raise ValueError(
            "A feature network needs class numbers (N,) and a .keras file. "
            f"Received: labels of shape {labels.shape}, {images.shape} images "
            f"and {path}. Use labels from 0 and {path.with_suffix('.keras')}."
        )
    if path.exists():
        return _load(path, images.shape[1:])
    network = feature_network(images.shape[1:], int(labels.max()) + 1, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    order = np.random.default_rng(seed).permutation(len(images))
    network.fit(
        images[order],
        labels[order],
        batch_size=batch_size,
        epochs=max(1, round(num_steps * batch_size / len(images))),
        shuffle=False,  # Keras's own order is not ours to seed
        verbose=verbose,
    )
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        network.save(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return _extractor(network)


def inception_features(weights="imagenet", image_shape=(None, None, 3)):
    """InceptionV3 from images in [-1, 1], C of 1 or 3, to `(N, 2048)`.

    This is not the network of published FIDs (TensorFlow's of 2015, of other
    weights and another resizing): compare its figures with its own alone.

    Args:
        weights: "imagenet" (Keras downloads 85 MB), a file of weights without
            the top, or None for random ones.
        image_shape: tuple `(H, W, C)`.

    Raises:
        DataUnavailable: if the weights are not here and not to be had.
    """
    images = x = keras.Input(image_shape, dtype="float32")
    if image_shape[-1] == 1:
        x = keras.layers.Concatenate(dtype="float32")([x, x, x])
    x = keras.layers.Resizing(299, 299, antialias=True, dtype="float32")(x)
    options = {"include_top": False, "pooling": "avg", "weights": weights}
    try:
        inception = keras.applications.InceptionV3(**options)
    except Exception as error:  # Keras raises no narrower class
        raise unavailable(
            "InceptionV3 needs its ImageNet weights.",
            error,
            "Pass a file of them as `weights`, or use `train_feature_network`.",
        ) from error
    # It was trained on [-1, 1]: there is nothing to preprocess.
    return keras.Model(images, inception(x), name="inception_features")


def features(extractor, images, batch_size=256):
    """Features of images `(N, H, W, C)` in [-1, 1], a numpy array `(N, D)`."""
    images = np.asarray(images)
    check_images(images, extractor.input_shape)
    return extractor.predict(images, batch_size=batch_size, verbose=0)


def check_images(images, shape, most=np.inf):
    """Refuses what is no image; samples may leave [-1, 1], data may not."""
    check_array(images, keras.KerasTensor(shape), "Images")
    check_rows(images)
    low, high = images.min(), images.max()
    if images.dtype.kind != "f" or max(-low, high) > most:
        raise ValueError(
            "Images must be floats in [-1, 1]. "
            f"Received: {images.dtype} from {low} to {high}. "
            "Divide pixels by 127.5 and subtract 1."
        )


def _load(path, image_shape):
    try:
        extractor = _extractor(keras.saving.load_model(path, compile=False))
        came = extractor.input_shape[1:]
    except Exception as error:  # a zip, a config or weights that are broken
        came = error
    if came != image_shape:
        raise ValueError(
            f"{path} must hold a feature network for images {image_shape}. "
            f"Received: {came}. Use another path, or delete it to train anew."
        )
    return extractor


def _extractor(network):
    return keras.Model(network.inputs, network.get_layer("features").output)
