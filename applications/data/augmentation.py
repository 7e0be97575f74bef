"""Random augmentation of training images, as in the paper's recipes."""

import keras
import numpy as np

# N images, H height, W width, C channels.

GROUP = 16  # images that share the operations which RandAugment draws


def augmentation(kind, channels=3):
    """Returns a function `(images, generator) -> images`, or None for "none".

    | kind | changes |
    |---|---|
    | `"none"` | none |
    | `"flip"` | mirror half of the images |
    | `"flip_crop"` | flip, then pad by 4 pixels and crop at random |
    | `"flip_randaugment"` | flip, then `RandAugment` |
    | `"flip_crop_randaugment"` | all three |

    The function takes and returns float32 arrays (N, H, W, C) with pixels in
    [0, 1], not yet standardised. All its random numbers come from the
    `numpy.random.Generator`: a generator in the same state gives the same
    images.

    Args:
        kind: string, from the table.
        channels: int. Kinds with RandAugment need 1 or 3.

    Example:

    >>> augment = augmentation("flip_crop")
    >>> images = np.random.default_rng(0).random((8, 32, 32, 3), "float32")
    >>> augment(images, np.random.default_rng(1)).shape
    (8, 32, 32, 3)
    """
    recipes = {
        "none": (),
        "flip": (flip,),
        "flip_crop": (flip, crop),
        "flip_randaugment": (flip, RandAugment),
        "flip_crop_randaugment": (flip, crop, RandAugment),
    }
    if kind not in recipes:
        raise ValueError(
            f"`kind` must be one of {list(recipes)}. "
            f'Received: "{kind}". Use "none" for images as they are.'
        )
    changes = [
        change(channels) if change is RandAugment else change
        for change in recipes[kind]
    ]
    if not changes:
        return None

    def augment(images, generator):
        for change in changes:
            images = change(images, generator)
        return images

    return augment


# Flip and crop are not Keras's layers for two reasons. These keep a random
# state of their own, so that a resumed run would draw other images. And
# `keras.layers.RandomCrop` (3.15.1) draws one crop for a whole batch and does
# not pad.


def flip(images, generator):
    """Mirrors each image left to right with probability one half."""
    mirrored = generator.random(len(images)) < 0.5
    images = images.copy()
    images[mirrored] = images[mirrored, :, ::-1]
    return images


def crop(images, generator, padding=4):
    """Shifts each image by up to `padding` pixels and fills with black."""
    count, height, width, _ = images.shape
    border = (padding, padding)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    top, left = generator.integers(0, 2 * padding + 1, (2, count, 1))
    rows = (top + np.arange(height))[:, :, None]  # (N, H, 1)
    columns = (left + np.arange(width))[:, None, :]  # (N, 1, W)
    return padded[np.arange(count)[:, None, None], rows, columns]


class RandAugment:
    """Applies random image operations of moderate strength to each image.

    The operations are layers of Keras, but `keras.layers.RandAugment` does
    not combine them as the paper does. In Keras 3.15.1 that layer draws one
    pair of operations for a whole batch, computes all eleven for every image
    (0.3 to 8 seconds for 128 images on two cores, depending on the backend),
    and rotates images by up to 180 degrees at its default strength.

    Here each group of `GROUP` images draws its own operations, and only those
    are computed. The largest strengths are those of magnitude 9 out of 30,
    the default of torchvision, which the reference code uses. Each image
    draws its own strength up to the largest.

    Args:
        channels: int, 1 or 3. Images of one channel get no color operation.
        num_ops: int, the number of operations on each image.

    References:
     - [RandAugment](https://arxiv.org/abs/1909.13719), Section 3
    """

    def __init__(self, channels=3, num_ops=2):
        if channels not in (1, 3):
            raise ValueError(
                "RandAugment needs images with 1 or 3 channels. "
                f'Received: channels={channels}. Use "flip_crop".'
            )
        self.num_ops = num_ops
        self.operations = [_identity, _solarize, *_layers(channels)]

    def __call__(self, images, generator):
        augmented = np.empty_like(images)
        # The accelerator is left to the training step.
        with keras.device("cpu:0"):
            for first in range(0, len(images), GROUP):
                group = slice(first, first + GROUP)
                augmented[group] = self._augment(images[group], generator)
        return augmented

    def _augment(self, images, generator):
        # A group that is not full is filled up, because JAX compiles an
        # operation again for each new shape.
        group = np.resize(images, (GROUP, *images.shape[1:])) * 255.0
        count = len(self.operations)
        for chosen in generator.integers(count, size=self.num_ops):
            operation = self.operations[chosen]
            if isinstance(operation, keras.Layer):
                group = _apply(operation, group, generator)
            else:
                group = operation(group)
        group = keras.ops.convert_to_numpy(group)[: len(images)]
        return np.clip(group / 255.0, 0.0, 1.0)


def _apply(layer, images, generator):
    # This is what the layer's `call` does, with a seed from our generator
    # instead of the layer's own random state.
    seed = keras.random.SeedGenerator(int(generator.integers(2**31)))
    images = keras.ops.convert_to_tensor(images)
    drawn = layer.get_random_transformation(images, training=True, seed=seed)
    return layer.transform_images(images, drawn, training=True)


def _identity(images):
    return images


def _solarize(images, threshold=0.7 * 255.0):
    # `keras.layers.Solarization` (3.15.1) draws its threshold from
    # [factor, 255 * factor], which cannot express this fixed threshold.
    images = keras.ops.convert_to_numpy(images)
    return np.where(images < threshold, images, 255.0 - images)


def _layers(channels):
    # torchvision's strengths at magnitude 9 of 30: 0.3 of the largest ones.
    # Shear, translation and rotation in the units of the Keras layers, and
    # the relative change of brightness, contrast, color and sharpness.
    shear, shift, turn, tone = 0.09, 0.3 * 150 / 331, 0.3 * 30 / 360, 0.27
    # A sharpness of 0.5 leaves the image unchanged.
    sharpness = (0.5 - tone / 2, 0.5 + tone / 2)
    options = {"data_format": "channels_last", "dtype": "float32"}
    geometric = {"fill_mode": "constant", **options}
    photometric = {"value_range": (0, 255), **options}
    layers = [
        keras.layers.RandomShear(x_factor=(0.0, shear), **geometric),
        keras.layers.RandomShear(y_factor=(0.0, shear), **geometric),
        keras.layers.RandomTranslation(0.0, shift, **geometric),
        keras.layers.RandomTranslation(shift, 0.0, **geometric),
        keras.layers.RandomRotation(turn, **geometric),
        keras.layers.RandomBrightness(tone, **photometric),
        keras.layers.RandomContrast((tone, tone), **photometric),
        keras.layers.RandomSharpness(sharpness, **photometric),
        keras.layers.RandomPosterization((7, 7), **photometric),  # 7 bits
        keras.layers.AutoContrast(**photometric),
        keras.layers.Equalization(**photometric),
    ]
    if channels == 3:
        color = keras.layers.RandomColorDegeneration((0.0, tone), **photometric)
        layers.append(color)
    return layers
