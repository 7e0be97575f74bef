"""Where images come from: uint8 arrays, read but not yet checked."""

import contextlib
import importlib
import os
from pathlib import Path

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")
USE_A_FILE = f"Or pass an .npz file with the keys {', '.join(KEYS)}."
TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

# Classes of a set of tensorflow-datasets, and the host it is fetched from.
TFDS_SETS = {
    "fashion_mnist": (
        10,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    "cifar10": (10, "https://www.cs.toronto.edu"),
    "cifar100": (100, "https://www.cs.toronto.edu"),
}


class DataUnavailable(RuntimeError):
    """Data that is not on this machine and cannot be fetched.

    The message is one line: what was wanted, what came, what to do.
    """


def unavailable(wanted, came, do):
    """A `DataUnavailable` whose `came` may be another library's error."""
    came = " ".join(str(came).split())[:200].rstrip(".")
    return DataUnavailable(f"{wanted} Received: {came}. {do}")


def require(module):
    """Imports a package of the `data` extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise unavailable(
            f"`{module.split('.')[0]}` is needed to read these images.",
            error,
            'Run `pip install "keras-dblocks[data]"`.',
        ) from error


def read_npz(path):
    """Arrays of an .npz file with the keys `KEYS`."""
    if not path.exists():
        raise unavailable(
            "Images must be in a file that exists.",
            f"{path} is not there",
            'Check the path, or use "digits", which needs no file.',
        )
    keys = []
    try:
        # Opened here: `np.load` leaves a torn file open.
        with path.open("rb") as stream, np.load(stream) as file:
            keys = sorted(file.files)
            if set(KEYS) <= set(keys):
                return {key: file[key] for key in KEYS}
    except Exception as error:  # a zip, a header or an array that is broken
        raise ValueError(
            f"{path} must be an .npz file of numeric arrays. "
            f"Received: {error}. Write it with `numpy.savez`."
        ) from error
    raise ValueError(
        f"{path} must have the keys {list(KEYS)}. "
        f"Received: {keys}. Write it with `numpy.savez(path, x_train=...)`."
    )


def read_digits(name, data_dir):
    """scikit-learn's digits, 1,437 to train on and 360 to test."""
    del name, data_dir
    digits = require("sklearn.datasets").load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype("uint8")
    split = require("sklearn.model_selection").train_test_split(
        pixels,
        digits.target,
        test_size=360,
        stratify=digits.target,
        random_state=0,
    )
    x_train, x_test, y_train, y_test = split
    return dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))


def read_tfds(name, data_dir):
    """A set of tensorflow-datasets, downloaded and prepared if need be."""
    tfds = require("tensorflow_datasets")
    num_classes, host = TFDS_SETS[name]
    try:
        with _only_errors():
            train, test = _open_tfds(tfds, name, data_dir, host)
            arrays = (*_stack(train), *_stack(test))
    except Exception as error:  # TFDS, requests, TensorFlow: no common class
        do = "Check the network."
        if isinstance(error, ImportError):
            # TFDS reads without TensorFlow but prepares with it. 4.9.10 also
            # needs importlib_resources, which it does not install.
            do = f"Run `pip install {error.name}`: needed once, to prepare it."
        raise unavailable(
            f"`{name}` must be on this machine, or downloadable by "
            "tensorflow-datasets.",
            f"{type(error).__name__}: {error}",
            f"{do} {USE_A_FILE}",
        ) from error
    return dict(zip(KEYS, arrays, strict=True), num_classes=num_classes)


def _open_tfds(tfds, name, data_dir, host):
    """Training and test split, each an iterable of examples."""
    options = {"split": ["train", "test"], "data_dir": data_dir}
    array_record = {"builder_kwargs": {"file_format": "array_record"}}
    try:
        return tfds.data_source(name, download=False, **options, **array_record)
    except KeyError:  # not prepared yet
        _reach(host)
        return tfds.data_source(name, **options, **array_record)
    except ValueError:  # prepared before, in a format TensorFlow must read
        return tfds.as_numpy(tfds.load(name, download=False, **options))


def _reach(host):
    # Without a network TFDS would keep trying for more than 3 minutes.
    requests = require("requests")
    try:
        requests.head(host, timeout=5)
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {host}") from error


def _stack(split):
    images, labels = [], []
    for example in split:
        images.append(example["image"])
        labels.append(example["label"])
    return np.stack(images), np.asarray(labels)


@contextlib.contextmanager
def _only_errors():
    # TFDS warns of files that a first run cannot have.
    logging = require("absl.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def read_tiny_imagenet(name, data_dir):
    """Tiny-ImageNet from its unpacked archive; TFDS 4.9.10 does not have it."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    manual = Path(data_dir or default).expanduser() / "downloads" / "manual"
    path = manual / "tiny-imagenet-200"
    if not path.is_dir():
        raise unavailable(
            f"`{name}` must be unpacked on this machine.",
            f"{path} is not there",
            f"Unzip {TINY_IMAGENET} there, or pass its folder instead of the "
            f"name. {USE_A_FILE}",
        )
    return read_image_folder(path)


def read_image_folder(path):
    """A folder laid out as tiny-imagenet-200.

    `wnids.txt` has a class a line, `train/<class>/images/` its images. The
    test split is `val/images/` with `val/val_annotations.txt` (file name and
    class in a line's first columns): the labels of `test/` were not published.
    """
    annotations = path / "val" / "val_annotations.txt"
    if not (path / "wnids.txt").is_file() or not annotations.is_file():
        raise ValueError(
            "A folder of images must be laid out as tiny-imagenet-200. "
            f"Received: {path} without wnids.txt or val/val_annotations.txt. "
            f"Unzip {TINY_IMAGENET}, or save the images as an .npz file."
        )
    classes = sorted((path / "wnids.txt").read_text().split())
    train = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / "train" / name / "images").iterdir())
    ]
    rows = [line.split("\t") for line in annotations.read_text().splitlines()]
    test = [
        (path / "val" / "images" / row[0], classes.index(row[1]))
        for row in rows
    ]
    arrays = (*_read_files(train), *_read_files(test))
    return dict(zip(KEYS, arrays, strict=True), num_classes=len(classes))


def _read_files(labelled):
    image_class = require("PIL.Image")
    images = []
    for file, _ in labelled:
        with image_class.open(file) as image:
            images.append(np.asarray(image.convert("RGB")))  # some are grey
    return np.stack(images), np.asarray([label for _, label in labelled])
