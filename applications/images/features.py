"""Networks that compute the features by which the metrics compare images."""

from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.data.sources import unavailable
from keras_dblocks.checks import check_array, check_rows

from .files import atomic

# N images, H height, W width, C channels, D features. Pixels in [-1, 1].


def feature_network(image_shape, num_classes, seed=0):
    """Makes a small image classifier.

    Its layer "features" has 64 outputs.

    Args:
        image_shape: tuple `(H, W, C)`.
        num_classes: int.
        seed: int, of the initial weights.

    Returns:
        `keras.Model` from images `(N, H, W, C)` to logits `(N, num_classes)`.
    """
    # Always float32: a metric must not depend on the precision in which the
    # model it measures is trained.
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
    # tanh bounds the features, so that distances do not grow with the length of
    # the training.
    x = keras.layers.Dense(64, "tanh", name="features", **options)(x)
    logits = keras.layers.Dense(num_classes, **options)(x)
    return keras.Model(images, logits, name="feature_network")


def train_feature_network(
    images, labels, path, num_steps=1500, batch_size=128, seed=0, verbose=1
):
    """Trains a `feature_network` and saves it, or loads a saved one.

    Distances over the features of different networks cannot be compared. Keep
    the file together with the distances.

    Args:
        images: float array `(N, H, W, C)` in [-1, 1].
        labels: integer array `(N,)`.
        path: `.keras` file of the network. If it exists, it is loaded instead
            of training a network, whatever that network was trained on.
        num_steps, batch_size: ints. The number of steps is rounded to whole
            epochs.
        seed: int, of the initial weights and of the order of the images.
        verbose: as in `keras.Model.fit`.

    Returns:
        `keras.Model` from images to features `(N, 64)`.
    """
    path, images, labels = Path(path), np.asarray(images), np.asarray(labels)
    check_images(images, (None,) * 4, limit=1.001)
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
        shuffle=False,  # `order` is reproducible, that of Keras is not
        verbose=verbose,
    )
    with atomic(path) as temporary:
        network.save(temporary)
    return _extractor(network)


def inception_features(weights="imagenet", image_shape=(None, None, 3)):
    """InceptionV3 of `keras.applications`, up to its features.

    This is not the network of published FIDs, which is TensorFlow's of 2015
    with other weights and another way to resize images. Distances over these
    features cannot be compared with published ones.

    Args:
        weights: "imagenet" (Keras downloads 85 MB), a file of weights without
            the top layer, or None for random weights.
        image_shape: tuple `(H, W, C)`, with C = 1 or 3.

    Returns:
        `keras.Model` from images in [-1, 1] to features `(N, 2048)`.

    Raises:
        DataUnavailable: if the weights can neither be found nor downloaded.
    """
    images = x = keras.Input(image_shape, dtype="float32")
    if image_shape[-1] == 1:
        x = keras.layers.Concatenate(dtype="float32")([x, x, x])
    x = keras.layers.Resizing(299, 299, antialias=True, dtype="float32")(x)
    options = {"include_top": False, "pooling": "avg", "weights": weights}
    try:
        inception = keras.applications.InceptionV3(**options)
    except Exception as error:  # the classes are not documented
        raise unavailable(
            "InceptionV3 needs its ImageNet weights.",
            error,
            "Pass a file of them as `weights`, or use `train_feature_network`.",
        ) from error
    # It was trained on pixels in [-1, 1], so that no preprocessing is needed.
    return keras.Model(images, inception(x), name="inception_features")


def features(extractor, images, batch_size=256):
    """Computes the features of images.

    Args:
        extractor: `keras.Model` from images to features.
        images: float array `(N, H, W, C)` in [-1, 1].
        batch_size: int.

    Returns:
        numpy array `(N, D)`.
    """
    images = np.asarray(images)
    check_images(images, extractor.input_shape)
    return extractor.predict(images, batch_size=batch_size, verbose=0)


def check_images(images, shape, limit=np.inf):
    """Raises a `ValueError` for arrays that are not images.

    Args:
        images: float array `(N, H, W, C)`.
        shape: tuple `(None, H, W, C)`, the expected shape.
        limit: float, the largest magnitude of a pixel. Generated images may
            exceed 1, images of a data set may not.
    """
    check_array(images, keras.KerasTensor(shape), "Images")
    check_rows(images)
    low, high = images.min(), images.max()
    if images.dtype.kind != "f" or max(-low, high) > limit:
        raise ValueError(
            "Images must be floats in [-1, 1]. "
            f"Received: {images.dtype} from {low} to {high}. "
            "Divide pixels by 127.5 and subtract 1."
        )


def _load(path, image_shape):
    try:
        extractor = _extractor(keras.saving.load_model(path, compile=False))
        received = extractor.input_shape[1:]
    except Exception as error:  # a broken archive, config or weights file
        received = error
    if received != image_shape:
        raise ValueError(
            f"{path} must hold a feature network for images {image_shape}. "
            f"Received: {received}. Use another path, or delete the file to "
            "train a network."
        )
    return extractor


def _extractor(network):
    return keras.Model(network.inputs, network.get_layer("features").output)
