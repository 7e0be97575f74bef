"""Networks whose features the metrics compare images by."""

import functools
import os
import uuid
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.data.sources import unavailable
from keras_dblocks.models.checks import check_array, check_rows

# N images, H height, W width, C channels, D features. Pixels in [-1, 1].


def feature_network(image_shape, num_classes, seed=0):
    """A small convolutional classifier; its layer "features" has 64.

    Args:
        image_shape: tuple `(H, W, C)`, sides of 8 to some 64 pixels.
        num_classes: int.
        seed: int, of the initial weights.

    Returns:
        `keras.Model`, images `(N, H, W, C)` to logits `(N, num_classes)`.
    """
    # float32: a figure must not depend on the precision of what it measures.
    options = {
        "kernel_initializer": keras.initializers.HeNormal(seed),
        "dtype": "float32",
    }
    convolve = functools.partial(
        keras.layers.Conv2D, padding="same", activation="relu", **options
    )
    images = keras.Input(image_shape, dtype="float32")
    x = convolve(16, 3)(images)
    while max(x.shape[1:3]) > 4:
        x = convolve(min(64, 2 * x.shape[-1]), 3, strides=2)(x)
    x = keras.layers.Flatten(dtype="float32")(x)
    x = keras.layers.Dense(64, "relu", name="features", **options)(x)
    logits = keras.layers.Dense(num_classes, **options)(x)
    return keras.Model(images, logits, name="feature_network")


def train_feature_network(
    images, labels, path, num_steps=1500, batch_size=128, seed=0, verbose=1
):
    """Trains a `feature_network` once and keeps it.

    Figures over its features compare models of one file at `path`, and no
    others: keep that file with the figures.

    Args:
        images: float array `(N, H, W, C)` in [-1, 1].
        labels: integer array `(N,)`.
        path: a `.keras` file. It is read if it is there, whatever the other
            arguments say, and written when training ends.
        num_steps: int. Training steps, rounded to whole epochs.
        batch_size: int.
        seed: int, of the weights and of the order of the images.
        verbose: as in `keras.Model.fit`.

    Returns:
        `keras.Model`, images to features `(N, 64)`.

    Raises:
        ValueError: if images or labels cannot be learnt from, or the file
            holds something else.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(
            "A feature network is kept in a .keras file. "
            f"Received: {path}. Use {path.with_suffix('.keras')}."
        )
    images, labels = np.asarray(images), np.asarray(labels)
    if path.exists():
        return _load(path, images.shape[1:])
    _check_images(images, (None,) * 4)
    check_rows(images, labels)
    if labels.shape != (len(images),) or labels.min() < 0:
        raise ValueError(
            "Labels must be class numbers (N,) from 0. Received: shape "
            f"{labels.shape}, smallest {labels.min()}. Renumber the classes."
        )
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
    beside = path.with_name(f".{uuid.uuid4().hex}.keras")
    try:
        network.save(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return _extractor(network)


def inception_features(weights="imagenet", image_shape=(None, None, 3)):
    """InceptionV3's 2,048 pooled features of images of any size.

    This is not the network of published FIDs. That is TensorFlow's Inception
    of 2015, with other weights, another resizing and a few other layers;
    figures over Keras's Inception compare with figures over it alone.

    Args:
        weights: "imagenet" (85 MB, downloaded by Keras), a file of weights
            without the top, or None for random ones.
        image_shape: tuple `(H, W, C)`, C of 1 or 3.

    Returns:
        `keras.Model`, images in [-1, 1] to features `(N, 2048)`.

    Raises:
        DataUnavailable: if the weights are not here and not to be had.
    """
    images = x = keras.Input(image_shape, dtype="float32")
    if image_shape[-1] == 1:
        x = keras.layers.Concatenate(dtype="float32")([x, x, x])
    x = keras.layers.Resizing(299, 299, antialias=True, dtype="float32")(x)
    try:
        inception = keras.applications.InceptionV3(
            include_top=False, weights=weights, pooling="avg"
        )
    except Exception as error:  # Keras raises no narrower class
        if weights != "imagenet":
            raise
        raise unavailable(
            "InceptionV3 needs its weights once.",
            error,
            "Download them where there is a network and pass the file as "
            "`weights`, or use `train_feature_network`.",
        ) from error
    # It was trained on [-1, 1]: nothing to preprocess.
    return keras.Model(images, inception(x), name="inception_features")


def features(extractor, images, batch_size=256):
    """Features of images in [-1, 1], a numpy array `(N, D)`.

    Args:
        extractor: `keras.Model`, images `(N, H, W, C)` to features.
        images: float array `(N, H, W, C)`.
        batch_size: int. Images in memory on the device at a time.
    """
    images = np.asarray(images)
    _check_images(images, extractor.input_shape)
    return extractor.predict(images, batch_size=batch_size, verbose=0)


def _check_images(images, shape):
    check_array(images, keras.KerasTensor(shape), "Images")
    check_rows(images)
    # Samples may overshoot a little; pixels of 0 to 255 do not stop at 2.
    low, high = images.min(), images.max()
    if images.dtype.kind != "f" or low < -2 or high > 2:
        raise ValueError(
            "Images must be floats in [-1, 1]. "
            f"Received: {images.dtype} from {low} to {high}. "
            "Divide pixels by 127.5 and subtract 1."
        )


def _load(path, image_shape):
    try:
        extractor = _extractor(keras.saving.load_model(path, compile=False))
        fits = extractor.input_shape[1:] == image_shape
        came = f"one for images {extractor.input_shape[1:]}"
    except Exception as error:  # a zip, a config or weights that are broken
        fits, came = False, error
    if not fits:
        raise ValueError(
            f"{path} must hold a feature network for images {image_shape}. "
            f"Received: {came}. Use another path, or delete it to train anew."
        )
    return extractor


def _extractor(network):
    output = network.get_layer("features").output
    return keras.Model(network.inputs, output, name="features")
