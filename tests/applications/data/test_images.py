"""Images by name, from files and from folders."""

import sys

import numpy as np
import pytest

from keras_dblocks.applications.data import (
    DataUnavailable,
    load_images,
    sources,
)

pytestmark = pytest.mark.once


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def make_arrays(generator, shape=(6, 5, 3), count=20, classes=4):
    labels = np.arange(count) % classes
    return {
        "x_train": generator.integers(0, 256, (count, *shape), "uint8"),
        "y_train": labels,
        "x_test": generator.integers(0, 256, (count, *shape), "uint8"),
        "y_test": labels[::-1],
    }


def save(folder, arrays, name="some.npz"):
    np.savez(folder / name, **arrays)
    return folder / name


def pixels_of(x, data):
    return np.round((x * data.std + data.mean) * 255).astype("uint8")


# Sets by name.


def test_digits_are_split_by_class_and_standardised():
    from sklearn.datasets import load_digits

    data = load_images("digits")
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.dtype == "float32" and data.y_train.dtype == "int32"
    assert data.num_classes == 10 and data.name == "digits"
    np.testing.assert_allclose(data.x_train.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std(), 1, atol=1e-5)

    whole = load_digits()
    share = np.bincount(data.y_test) / np.bincount(whole.target)
    np.testing.assert_allclose(share, 360 / 1797, atol=4e-3)
    pixels = np.concatenate([data.x_train, data.x_test]) * data.std + data.mean
    ours = sorted(map(tuple, np.round(pixels.reshape(1797, 64) * 16)))
    assert ours == sorted(map(tuple, whole.images.reshape(1797, 64)))


def test_digits_are_the_same_each_time():
    one, two = load_images("digits"), load_images("digits")
    np.testing.assert_array_equal(one.x_train, two.x_train)
    np.testing.assert_array_equal(one.y_test, two.y_test)


def test_tfds_reads_cifar100_with_the_statistics_of_the_reference():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=5):
        source = tfds.data_source("cifar100", split="train")
        images = np.stack([example["image"] for example in source])
        labels = [example["label"] for example in source]
        data = load_images("cifar100")
        resized = load_images("cifar100", size=16)
    np.testing.assert_array_equal(pixels_of(data.x_train, data), images)
    np.testing.assert_array_equal(data.y_train, labels)
    np.testing.assert_allclose(data.mean, [0.5071, 0.4867, 0.4408])
    np.testing.assert_allclose(data.std, [0.2675, 0.2565, 0.2761])
    assert data.num_classes == 100  # not the largest of five labels
    assert resized.x_test.shape == (5, 16, 16, 3)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_without_a_network_the_answer_is_one_line(name, monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    import requests

    def no_network(*args, **kwargs):
        raise requests.ConnectionError("Name or service not known\n")

    monkeypatch.setattr(requests, "head", no_network)
    monkeypatch.setattr(requests.Session, "get", no_network)
    with pytest.raises(DataUnavailable, match="no answer from http") as error:
        load_images(name, data_dir=tmp_path)
    message = str(error.value)
    assert name in message and ".npz" in message and "\n" not in message


def test_what_is_missing_to_prepare_a_set_is_named(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets")

    def no_tensorflow(host):
        raise ModuleNotFoundError("No module named 'x'", name="tensorflow")

    monkeypatch.setattr(sources, "_reach", no_tensorflow)
    with pytest.raises(DataUnavailable, match="pip install tensorflow"):
        load_images("cifar10", data_dir=tmp_path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataUnavailable, match="keras-dblocks\\[data\\]"):
        load_images("digits")


# Files and folders.


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_npz(shape, generator, tmp_path):
    arrays = make_arrays(generator, shape)
    arrays["y_train"] = arrays["y_train"][:, None].astype("uint8")  # CIFAR's
    data = load_images(save(tmp_path, arrays))
    channels = (*shape, 1)[2]
    x = arrays["x_train"].reshape(-1, channels) / 255
    np.testing.assert_allclose(data.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, x.std(0), rtol=1e-6)
    for split in ("train", "test"):
        images = getattr(data, f"x_{split}")
        labels = getattr(data, f"y_{split}")
        assert images.shape == (20, 6, 5, channels)
        assert images.dtype == "float32" and labels.dtype == "int32"
        np.testing.assert_array_equal(
            pixels_of(images, data).ravel(), arrays[f"x_{split}"].ravel()
        )
        np.testing.assert_array_equal(labels, arrays[f"y_{split}"].ravel())
    assert data.num_classes == 4 and data.name == "some"
    assert data.class_names is None


def test_size_resizes_and_a_constant_channel_stays_finite(generator, tmp_path):
    arrays = make_arrays(generator)
    arrays["x_train"][..., 0] = 7
    arrays["x_test"][..., 0] = 7
    data = load_images(save(tmp_path, arrays), size=9)
    assert data.x_train.shape == (20, 9, 9, 3)
    assert (pixels_of(data.x_train, data)[..., 0] == 7).all()
    assert np.isfinite(data.x_train).all()


def test_tiny_imagenet_folder(generator, tmp_path):
    image_class = pytest.importorskip("PIL.Image")
    root = tmp_path / "downloads" / "manual" / "tiny-imagenet-200"
    classes = ["n02", "n01"]
    images = generator.integers(0, 256, (2, 2, 4, 4, 3), "uint8")
    images[0, 0] = images[0, 0, :, :, :1]  # one grey image
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(classes) + "\n")
    lines = []
    for c, name in enumerate(classes):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for i, pixels in enumerate(images[c]):
            grey = c == i == 0
            image = image_class.fromarray(pixels[..., 0] if grey else pixels)
            image.save(folder / f"{name}_{i}.JPEG", format="PNG")
        image.save(root / "val" / "images" / f"val_{c}.JPEG", format="PNG")
        lines.append(f"val_{c}.JPEG\t{name}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")

    by_name = load_images("tiny_imagenet", data_dir=tmp_path)
    by_folder = load_images(root)
    np.testing.assert_array_equal(by_name.x_train, by_folder.x_train)
    # Classes are numbered in the order of their names.
    expected = np.concatenate([images[1], images[0]])
    np.testing.assert_array_equal(pixels_of(by_name.x_train, by_name), expected)
    np.testing.assert_array_equal(by_name.y_train, [0, 0, 1, 1])
    np.testing.assert_array_equal(by_name.y_test, [1, 0])
    assert by_name.num_classes == 2
    assert by_name.class_names == ("n01", "n02")


def write_images(folder, images):
    image_class = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True)
    for i, pixels in enumerate(images):
        image_class.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no image")


def test_a_folder_for_each_class(generator, tmp_path):
    images = generator.integers(0, 256, (2, 5, 4, 6), "uint8")
    for name, some in zip(("cat", "ant"), images, strict=True):
        write_images(tmp_path / name, some)
    data = load_images(tmp_path)
    assert data.x_train.shape == (8, 4, 6, 1) and data.num_classes == 2
    assert data.class_names == ("ant", "cat")
    # Classes are numbered in the order of their names; the fifth is a test.
    expected = np.concatenate([images[1][:4], images[0][:4]])
    found = pixels_of(data.x_train, data)[..., 0]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(data.y_train, [0] * 4 + [1] * 4)
    found = pixels_of(data.x_test, data)[..., 0]
    np.testing.assert_array_equal(found, [images[1][4], images[0][4]])


def test_folders_of_classes_in_train_and_val(generator, tmp_path):
    images = generator.integers(0, 256, (3, 4, 4, 3), "uint8")
    for name in ("train/a", "train/b", "val/b"):
        write_images(tmp_path / name, images)
    data = load_images(tmp_path)
    assert data.x_train.shape == (6, 4, 4, 3) and data.num_classes == 2
    np.testing.assert_array_equal(data.y_test, [1, 1, 1])


def test_folders_that_are_refused(generator, tmp_path):
    images = generator.integers(0, 256, (5, 4, 4), "uint8")
    write_images(tmp_path / "few" / "a", images[:4])
    write_images(tmp_path / "alone" / "train" / "a", images)
    for name in ("few", "alone"):
        with pytest.raises(ValueError, match="one folder per class"):
            load_images(tmp_path / name)
    write_images(tmp_path / "sizes" / "a", [*images[:4], images[4, :3]])
    with pytest.raises(ValueError, match="one size.*4.png"):
        load_images(tmp_path / "sizes")
    (tmp_path / "sizes" / "a" / "4.png").write_bytes(b"half")
    with pytest.raises(ValueError, match="4.png, which cannot"):
        load_images(tmp_path / "sizes")
    write_images(tmp_path / "deep" / "a", images.astype("uint16"))
    with pytest.raises(ValueError, match="8 bits"):
        load_images(tmp_path / "deep")


# Refusals.


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataUnavailable, match="Unzip http.*npz"):
        load_images("tiny_imagenet", data_dir=tmp_path)
    with pytest.raises(DataUnavailable, match="none.npz is not there"):
        load_images(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="cifar100.*Received: .nothing.*Use"):
        load_images("nothing")
    with pytest.raises(ValueError, match="one folder per class"):
        load_images(tmp_path)
    (tmp_path / "wnids.txt").write_text("n01\n")
    with pytest.raises(ValueError, match="tiny-imagenet-200. Received"):
        load_images(tmp_path)
    with pytest.raises(ValueError, match="size.*Received: size=0.*Pass"):
        load_images("digits", size=0)


@pytest.mark.parametrize(
    "key, change, match",
    [
        ("x_train", lambda x: x / 255, "float64.*Save the pixels"),
        ("x_test", lambda x: x[:, 0, 0], r"\(20, 3\)"),
        ("x_test", lambda x: x[:0], r"\(0, 6, 5, 3\)"),
        ("x_test", lambda x: x[:, :4], "one shape.*Resize"),
        ("y_train", lambda y: y[:-1], r"each of 20 images.*\(19,\)"),
        ("y_train", lambda y: y + 0.5, "Received: float64.*Save class"),
        ("y_test", lambda y: np.eye(4, dtype=int)[y], r"\(20, 4\).*one-hot"),
        ("y_test", lambda y: y - 1, "a label of -1.*Renumber"),
        ("y_test", lambda y: y.astype(object), "Received: .*numpy.savez"),
    ],
)
def test_npz_refusals(key, change, match, generator, tmp_path):
    arrays = make_arrays(generator)
    arrays[key] = change(arrays[key])
    with pytest.raises(ValueError, match=match):
        load_images(save(tmp_path, arrays))


def test_npz_with_missing_keys_or_broken(generator, tmp_path):
    arrays = make_arrays(generator)
    arrays["labels"] = arrays.pop("y_test")
    with pytest.raises(ValueError, match="must have the keys.*'labels'"):
        load_images(save(tmp_path, arrays))
    path = tmp_path / "torn.npz"
    path.write_bytes(save(tmp_path, arrays).read_bytes()[:300])
    with pytest.raises(ValueError, match="torn.npz must be an .npz file"):
        load_images(path)
