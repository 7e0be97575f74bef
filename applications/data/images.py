"""Image classification data as standardised arrays."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_dblocks.applications.data import sources

# N images, H height, W width, C channels.

READERS = {
    "digits": sources.read_digits,
    "fashion_mnist": sources.read_tfds,
    "cifar10": sources.read_tfds,
    "cifar100": sources.read_tfds,
    "tiny_imagenet": sources.read_tiny_imagenet,
}

# Mean and standard deviation of each channel in the reference code
# (docs/method.md#image-classification). Those of other sets are computed from
# the training split.
STATISTICS = {
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """Standardised images and their labels.

    Attributes:
        x_train, x_test: float32 arrays (N, H, W, C), `(pixels - mean) / std`
            with pixels in [0, 1].
        y_train, y_test: int32 arrays (N,), labels in [0, num_classes).
        num_classes: int.
        name: string, the name of the set or of the file.
        mean, std: float32 arrays (C,) with which `x` was standardised.
        class_names: tuple of strings, whose positions are the labels; None if
            the data do not name their classes.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str
    mean: np.ndarray
    std: np.ndarray
    class_names: tuple[str, ...] | None = None

    def with_signed_pixels(self):
        """Returns the same data with pixels in [-1, 1] as `x`.

        `mean` and `std` of the result convert its `x` to pixels in [0, 1].
        """
        signed = (
            (2 * (x * self.std + self.mean) - 1).clip(-1, 1).astype("float32")
            for x in (self.x_train, self.x_test)
        )
        x_train, x_test = signed
        half = np.full_like(self.mean, 0.5)
        return dataclasses.replace(
            self, x_train=x_train, x_test=x_test, mean=half, std=half
        )


def load_images(name_or_path, size=None, data_dir=None):
    """Loads a set of images by its name, or from a file.

    | name | images | from |
    |---|---|---|
    | `"digits"` | 8x8x1, 1,437 + 360 | scikit-learn, no download |
    | `"fashion_mnist"` | 28x28x1, 60,000 + 10,000 | TFDS |
    | `"cifar10"`, `"cifar100"` | 32x32x3, 50,000 + 10,000 | TFDS |
    | `"tiny_imagenet"` | 64x64x3, 100,000 + 10,000 | unpacked archive |
    | `"some.npz"` | uint8, keys x_train, y_train, x_test, y_test | file |
    | `"some/folder"` | one folder per class, see `sources` | folder |
    | `"some/tiny-imagenet-200"` | as `"tiny_imagenet"` | folder |

    TFDS is tensorflow-datasets. It needs TensorFlow once, to prepare a set
    after the download, and afterwards reads the set without TensorFlow.

    Args:
        name_or_path: string or path, from the table. Images of an `.npz` are
            (N, H, W) or (N, H, W, C), labels integers (N,) or (N, 1).
        size: int. Images are resized to (size, size). None keeps their size.
        data_dir: folder in which TFDS stores its sets. Defaults to
            `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Returns:
        An `ImageData`.

    Raises:
        DataUnavailable: if the set can neither be found nor downloaded.
        ValueError: for an unknown name, or a file that does not have the
            format in the table.

    Example:

    >>> data = load_images("digits")
    >>> data.x_train.shape, data.y_train.shape, data.num_classes
    ((1437, 8, 8, 1), (1437,), 10)
    """
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(
            "`size` must be None or a number of pixels above 0. "
            f"Received: size={size!r}. Pass an integer such as 32."
        )
    name, arrays = _read(name_or_path, data_dir)
    x_train, x_test = _check_images(arrays["x_train"], arrays["x_test"])
    y_train = _check_labels("train", arrays["y_train"], len(x_train))
    y_test = _check_labels("test", arrays["y_test"], len(x_test))
    if size is not None:
        x_train, x_test = _resize(x_train, size), _resize(x_test, size)
    mean, std = STATISTICS.get(name_or_path) or _statistics(x_train)
    mean, std = np.asarray(mean, "float32"), np.asarray(std, "float32")
    largest = int(max(y_train.max(), y_test.max()))
    return ImageData(
        _standardise(x_train, mean, std),
        y_train,
        _standardise(x_test, mean, std),
        y_test,
        num_classes=arrays.get("num_classes", largest + 1),
        name=name,
        mean=mean,
        std=std,
        class_names=arrays.get("class_names"),
    )


def _read(name_or_path, data_dir):
    if name_or_path in READERS:
        return name_or_path, READERS[name_or_path](name_or_path, data_dir)
    path = Path(name_or_path).expanduser()
    if path.suffix == ".npz":
        return path.stem, sources.read_npz(path)
    if path.is_dir():
        return path.name, sources.read_image_folder(path)
    raise ValueError(
        f"Images must be one of {list(READERS)}, an .npz file or a folder. "
        f'Received: "{name_or_path}". Use a name of the list, or check '
        "the path."
    )


def _check_images(x_train, x_test):
    """Returns both as uint8 arrays (N, H, W, C)."""
    for key, x in (("x_train", x_train), ("x_test", x_test)):
        if x.dtype != "uint8" or x.ndim not in (3, 4) or 0 in x.shape:
            raise ValueError(
                f"`{key}` must hold uint8 images (N, H, W) or (N, H, W, C). "
                f"Received: {x.dtype} of shape {x.shape}. "
                "Save the pixels as integers from 0 to 255."
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            "Training and test images must have one shape. "
            f"Received: {x_train.shape[1:]} and {x_test.shape[1:]}. "
            "Resize them to one."
        )
    if x_train.ndim == 3:
        return x_train[..., None], x_test[..., None]
    return x_train, x_test


def _check_labels(split, labels, count):
    """Returns the labels as an int32 array (N,)."""
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"`y_{split}` must hold one integer for each of {count} images. "
            f"Received: {labels.dtype} of shape {labels.shape}. "
            "Save class numbers, not one-hot rows."
        )
    if labels.min() < 0:
        raise ValueError(
            f"`y_{split}` must count the classes from 0. "
            f"Received: a label of {labels.min()}. Renumber the classes."
        )
    return labels.reshape(count).astype("int32")


def _resize(images, size):
    image_class = sources.require("PIL.Image")
    channels = images.shape[-1]
    resized = np.empty((len(images), size, size, channels), "uint8")
    for n, image in enumerate(images):
        for c in range(channels):
            channel = image_class.fromarray(np.ascontiguousarray(image[..., c]))
            resized[n, ..., c] = channel.resize((size, size), 2)  # bilinear
    return resized


def _statistics(images):
    """Mean and standard deviation of each channel of pixels in [0, 1]."""
    # With `dtype`, numpy converts the array in pieces, so that there is no
    # float copy of the whole set in memory.
    mean = images.mean((0, 1, 2), dtype="float64")
    square = np.einsum("nhwc,nhwc->c", images, images, dtype="float64")
    square /= images[..., 0].size
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return mean / 255.0, np.where(std > 0.0, std / 255.0, 1.0)


def _standardise(images, mean, std):
    x = images.astype("float32")
    x /= 255.0  # in place, because Tiny-ImageNet takes 4.9 GB
    x -= mean
    x /= std
    return x
