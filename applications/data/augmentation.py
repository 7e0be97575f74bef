"""Random changes to training images, as in the paper's recipes."""

import keras
import numpy as np

# N images, H height, W width, C channels.

GROUP = 16


def augmentation(kind, channels=3):
    """Returns a function `(images, generator) -> images`, or None for "none".

    | kind | changes |
    |---|---|
    | `"none"` | none |
    | `"flip_crop"` | mirror half of them, pad by 4, crop at random |
    | `"flip_randaugment"` | mirror half of them, `RandAugment` |
    | `"flip_crop_randaugment"` | all three |

    The function takes and returns float32 arrays (N, H, W, C) with pixels in
    [0, 1], not yet standardised, and draws from a `numpy.random.Generator`
    alone: the same generator gives the same images.

    Args:
        kind: string, from the table.
        channels: int, 1 or 3 for kinds with RandAugment.

    Example:

    >>> augment = augmentation("flip_crop")
    >>> images = np.random.default_rng(0).random((8, 32, 32, 3), "float32")
    >>> augment(images, np.random.default_rng(1)).shape
    (8, 32, 32, 3)
    """
    recipes = {
        "none": (),
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


# Flip and crop are written out because Keras's layers keep a random state (a
# resumed run would draw other images), and `RandomCrop` (3.15.1) draws one
# crop for a whole batch and does not pad.


def flip(images, generator):
    """Mirrors each image with probability one half."""
    mirrored = generator.random(len(images)) < 0.5
    images = images.copy()
    images[mirrored] = images[mirrored, :, ::-1]
    return images


def crop(images, generator, padding=4):
    """Shifts each image by up to `padding` pixels; the new ones are black."""
    count, height, width, _ = images.shape
    border = (padding, padding)
    padded = np.pad(images, ((0, 0), border, border, (0, 0)))
    top, left = generator.integers(0, 2 * padding + 1, (2, count, 1))
    rows = (top + np.arange(height))[:, :, None]  # (N, H, 1)
    columns = (left + np.arange(width))[:, None, :]  # (N, 1, W)
    return padded[np.arange(count)[:, None, None], rows, columns]


class RandAugment:
    """Two random image operations of moderate strength on each image.

    Every operation is a layer of Keras, but they are not put together by
    `keras.layers.RandAugment`. In Keras 3.15.1 that layer draws one pair of
    operations for a whole batch, computes all eleven for every image (0.3 to
    8 seconds for 128 images on two cores, by backend), and at its default
    strength turns images by up to 180 degrees. Here each group of `GROUP`
    images draws its own operations, only those are computed, and strengths
    are those of magnitude 9 of 30, the default of torchvision, which the
    reference code uses. Each image draws its own strength up to that.

    Args:
        channels: int, 1 or 3. One channel has no color to change.
        num_ops: int, operations on each image.

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
        # The data pipeline stays off the accelerator, which is training.
        with keras.device("cpu:0"):
            for first in range(0, len(images), GROUP):
                rows = slice(first, first + GROUP)
                augmented[rows] = self._augment(images[rows], generator)
        return augmented

    def _augment(self, images, generator):
        # Groups of one size: JAX compiles an operation once for each shape.
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
    # As the layer's own `call`, with a seed of ours instead of its state.
    seed = keras.random.SeedGenerator(int(generator.integers(2**31)))
    images = keras.ops.convert_to_tensor(images)
    drawn = layer.get_random_transformation(images, training=True, seed=seed)
    return layer.transform_images(images, drawn, training=True)


def _identity(images):
    return images


def _solarize(images, threshold=0.7 * 255.0):
    # `keras.layers.Solarization` (3.15.1) draws its threshold from
    # [factor, 255 * factor]: no factor gives this one.
    images = keras.ops.convert_to_numpy(images)
    return np.where(images < threshold, images, 255.0 - images)


def _layers(channels):
    # torchvision's strengths at bin 9 of 31: 0.3 of the largest.
    shear, shift, turn, tone = 0.09, 0.3 * 150 / 331, 0.3 * 30 / 360, 0.27
    plain = {"data_format": "channels_last", "dtype": "float32"}
    moved = {"fill_mode": "constant", **plain}
    toned = {"value_range": (0, 255), **plain}
    layers = [
        keras.layers.RandomShear(x_factor=(0.0, shear), **moved),
        keras.layers.RandomShear(y_factor=(0.0, shear), **moved),
        keras.layers.RandomTranslation(0.0, shift, **moved),
        keras.layers.RandomTranslation(shift, 0.0, **moved),
        keras.layers.RandomRotation(turn, **moved),
        keras.layers.RandomBrightness(tone, **toned),
        keras.layers.RandomContrast((tone, tone), **toned),
        # 0.5 leaves the image as it is.
        keras.layers.RandomSharpness((0.5 - tone / 2, 0.5 + tone / 2), **toned),
        keras.layers.RandomPosterization((7, 7), **toned),  # bits kept
        keras.layers.AutoContrast(**toned),
        keras.layers.Equalization(**toned),
    ]
    if channels == 3:
        color = keras.layers.RandomColorDegeneration((0.0, tone), **toned)
        layers.append(color)
    return layers
