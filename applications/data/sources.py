"""Readers of image data sets: uint8 arrays, not yet checked."""

import contextlib
import importlib
import os
from pathlib import Path

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")
USE_A_FILE = f"Or pass an .npz file with the keys {', '.join(KEYS)}."
TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

# Number of classes of a set of tensorflow-datasets, and the host from which it
# is downloaded.
TFDS_SETS = {
    "fashion_mnist": (
        10,
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    "cifar10": (10, "https://www.cs.toronto.edu"),
    "cifar100": (100, "https://www.cs.toronto.edu"),
}


class DataUnavailable(RuntimeError):
    """Data is not on this machine and cannot be downloaded.

    The message is one line: what was expected, what happened instead, and what
    to do about it.
    """


def unavailable(expected, received, advice):
    """Makes a `DataUnavailable`.

    Args:
        expected: string, a sentence on what is needed.
        received: string or exception, for instance the error of another
            library. It is cut to one line.
        advice: string, a sentence on what to do.
    """
    received = " ".join(str(received).split())[:200].rstrip(".")
    return DataUnavailable(f"{expected} Received: {received}. {advice}")


def require(module):
    """Imports a module of a package that the extra `data` installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise unavailable(
            f"`{module.split('.')[0]}` is needed to read these images.",
            error,
            'Run `pip install "keras-dblocks[data]"`.',
        ) from error


def read_npz(path):
    """Reads the arrays `KEYS` of an .npz file."""
    if not path.exists():
        raise unavailable(
            "Images must be in a file that exists.",
            f"{path} is not there",
            'Check the path, or use "digits", which needs no file.',
        )
    keys = []
    try:
        # The file is opened here because `np.load` does not close a file
        # that it cannot read.
        with path.open("rb") as stream, np.load(stream) as file:
            keys = sorted(file.files)
            if set(KEYS) <= set(keys):
                return {key: file[key] for key in KEYS}
    except Exception as error:  # of zipfile, numpy or the file system
        raise ValueError(
            f"{path} must be an .npz file of numeric arrays. "
            f"Received: {error}. Write it with `numpy.savez`."
        ) from error
    raise ValueError(
        f"{path} must have the keys {list(KEYS)}. "
        f"Received: {keys}. Write it with `numpy.savez(path, x_train=...)`."
    )


def read_digits(name, data_dir):
    """Reads scikit-learn's digits: 1,437 for training, 360 for the test."""
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
    """Reads a set of tensorflow-datasets; downloads it where necessary."""
    tfds = require("tensorflow_datasets")
    num_classes, host = TFDS_SETS[name]
    try:
        with _only_errors():
            train, test = _open_tfds(tfds, name, data_dir, host)
            arrays = (*_stack(train), *_stack(test))
    except Exception as error:  # of TFDS, requests or TensorFlow
        advice = "Check the network."
        if isinstance(error, ImportError):
            # TFDS needs TensorFlow to prepare a set. Version 4.9.10 also needs
            # importlib_resources, which it does not install.
            advice = (
                f"Run `pip install {error.name}`, which is needed once, to "
                "prepare the set."
            )
        raise unavailable(
            f"`{name}` must be on this machine, or downloadable by "
            "tensorflow-datasets.",
            f"{type(error).__name__}: {error}",
            f"{advice} {USE_A_FILE}",
        ) from error
    return dict(zip(KEYS, arrays, strict=True), num_classes=num_classes)


def _open_tfds(tfds, name, data_dir, host):
    """Returns the training and test split, each an iterable of examples."""
    options = {"split": ["train", "test"], "data_dir": data_dir}
    array_record = {"builder_kwargs": {"file_format": "array_record"}}
    try:
        return tfds.data_source(name, download=False, **options, **array_record)
    except KeyError:  # not prepared yet
        _reach(host)
        return tfds.data_source(name, **options, **array_record)
    except ValueError:  # prepared before, in a format that needs TensorFlow
        return tfds.as_numpy(tfds.load(name, download=False, **options))


def _reach(host):
    # Without a network TFDS would retry for more than 3 minutes.
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
    # TFDS warns of missing files that do not exist before the first run.
    logging = require("absl.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def read_tiny_imagenet(name, data_dir):
    """Reads Tiny-ImageNet from its archive, which the user has unpacked.

    TFDS 4.9.10 does not offer this set.
    """
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
    """Reads a folder of images, which has one of three layouts.

    | files | test split |
    |---|---|
    | `<class>/*.png` | every fifth image of a class, in the order of names |
    | `train/<class>/*.png` | `test/<class>/*.png`, or `val` for `test` |
    | those of tiny-imagenet-200 | its `val` |

    Classes are numbered in the order of their names. The images are of one
    size, PNG, JPEG or what else pillow reads by the ending of its name.
    """
    if (path / "wnids.txt").is_file():
        (train, test, classes), mode = _tiny_imagenet(path), "RGB"
    else:
        train, test, classes = _class_folders(path)
        mode = _colours([file for file, _ in (*train, *test)])
    arrays = (*_read_files(train, mode), *_read_files(test, mode))
    named = {"num_classes": len(classes), "class_names": tuple(classes)}
    return dict(zip(KEYS, arrays, strict=True), **named)


def _class_folders(path):
    """Lists of `(file, label)` to train and to test on, and the classes."""
    if not (path / "train").is_dir():
        files = _by_class(path)
        train, test = {}, {}
        for name, images in files.items():
            test[name] = images[4::5]
            train[name] = [f for i, f in enumerate(images) if i % 5 != 4]
    else:
        name = next((n for n in ("test", "val") if (path / n).is_dir()), None)
        train = _by_class(path / "train")
        test = {} if name is None else _by_class(path / name)
    if not any(test.values()) or not set(test) <= set(train):
        raise ValueError(
            "A folder of images has one folder per class, of five images or "
            "more, or such folders in train/ and test/. Received: "
            f"{path} with classes {sorted(train)[:9]} to train on and "
            f"{sorted(test)[:9]} to test on. Move the images, or save them as "
            "an .npz file."
        )
    classes = sorted(train)
    splits = [
        [(file, classes.index(n)) for n, files in s.items() for file in files]
        for s in (train, test)
    ]
    return *splits, classes


def _by_class(path):
    """Image files of each class's folder (dict of sorted lists)."""
    known = set(require("PIL.Image").registered_extensions())
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    files = {
        folder.name: sorted(
            file for file in folder.iterdir() if file.suffix.lower() in known
        )
        for folder in folders
    }
    return {name: images for name, images in files.items() if images}


def _colours(files):
    """The mode for all images, "RGB" or "L"; refuses unlike sizes."""
    image_class = require("PIL.Image")
    sizes, grey = {}, True
    for file in files:
        try:
            with image_class.open(file) as image:
                sizes.setdefault(image.size, file)
                grey = grey and image.mode in ("1", "L")
                deep = image.mode[:1] in ("I", "F")
        except OSError as error:
            raise ValueError(
                f"Images must be whole files. Received: {file}, which cannot "
                f"be read ({error}). Delete it, or write it again."
            ) from error
        if deep:
            raise ValueError(
                "Images must have 8 bits a channel. Received: "
                f"{file} of mode {image.mode!r}. Convert it."
            )
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise ValueError(
            f"Images must be of one size. Received: {first.name} of {one} and "
            f"{second.name} of {other} pixels. Resize them, for instance with "
            "`PIL.ImageOps.fit(image, (64, 64))`."
        )
    return "L" if grey else "RGB"


def _tiny_imagenet(path):
    """As `_class_folders`, of a folder laid out as tiny-imagenet-200.

    `wnids.txt` names one class per line, and `train/<class>/images/` holds its
    images. The test split is `val/images/`, because the labels of `test/` were
    not published. The first two columns of `val/val_annotations.txt` are a file
    name and its class.
    """
    annotations = path / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise ValueError(
            "A folder with wnids.txt must be laid out as tiny-imagenet-200. "
            f"Received: {path} without val/val_annotations.txt. "
            f"Unzip {TINY_IMAGENET}, or use one folder per class."
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
    return train, test, classes


def _read_files(labelled, mode):
    image_class = require("PIL.Image")
    images = []
    for file, _ in labelled:
        with image_class.open(file) as image:
            images.append(np.asarray(image.convert(mode)))
    return np.stack(images), np.asarray([label for _, label in labelled])
