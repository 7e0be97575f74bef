"""Feature networks: trained once, kept, and read by every backend."""

import os

import keras
import numpy as np
import pytest

from keras_dblocks.applications.data import DataUnavailable, load_images
from keras_dblocks.applications.images.features import (
    feature_network,
    features,
    inception_features,
    train_feature_network,
)


@pytest.fixture
def digits():
    """Training and test images in [-1, 1] with their labels."""
    data = load_images("digits")
    splits = ((data.x_train, data.y_train), (data.x_test, data.y_test))
    return [
        (((x * data.std + data.mean) * 2 - 1).astype("float32"), y)
        for x, y in splits
    ]


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return generator.uniform(-1, 1, (20, 8, 8, 1)).astype("float32")


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_network_for_every_set(shape):
    network = feature_network(shape, num_classes=7)
    assert network.output_shape == (None, 7)
    assert network.get_layer("features").output.shape == (None, 64)
    # The features see 4 x 4 places of the picture, whatever its size.
    (flat,) = [x for x in network.layers if isinstance(x, keras.layers.Flatten)]
    assert flat.input.shape[1:3] == (4, 4)
    assert network.count_params() < 150_000


@pytest.mark.heavy
def test_features_do_not_know_the_policy(images, tmp_path):
    path, labels = tmp_path / "features.keras", np.arange(20) % 2
    wanted = features(train_feature_network(images, labels, path, 1), images)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        loaded = train_feature_network(images, labels, path)
        ours = features(loaded, images)
        path.unlink()
        trained = train_feature_network(images, labels, path, 1)
        again = features(trained, images)
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(ours, wanted)
    np.testing.assert_allclose(again, wanted, atol=1e-5)


@pytest.mark.heavy
def test_digits_are_learnt_and_kept(digits, tmp_path):
    (x, y), (x_test, y_test) = digits
    path = tmp_path / "features.keras"
    trained = train_feature_network(x, y, path, num_steps=70, verbose=0)
    assert os.listdir(tmp_path) == ["features.keras"]

    whole = keras.saving.load_model(path)
    share = (whole.predict(x_test, verbose=0).argmax(-1) == y_test).mean()
    assert share > 0.85

    ours = features(trained, x_test, batch_size=100)
    assert ours.shape == (360, 64) and np.abs(ours).max() <= 1
    hidden = whole.layers[-1]
    logits = ours @ hidden.kernel + hidden.bias
    logits = keras.ops.convert_to_numpy(logits)
    wanted = whole.predict(x_test, verbose=0)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_a_file_that_is_there_is_not_trained_again(
    images, tmp_path, monkeypatch
):
    path = tmp_path / "features.keras"
    labels = np.arange(20) % 2
    train = {"num_steps": 2, "batch_size": 10, "verbose": 0}
    first = train_feature_network(images, labels, path, **train)
    written = path.read_bytes()

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", refuse)
        again = train_feature_network(images, 1 - labels, path)
    assert path.read_bytes() == written
    wanted = features(first, images)
    np.testing.assert_array_equal(features(again, images), wanted)


@pytest.mark.heavy
def test_seed_fixes_weights_and_order(images, tmp_path):
    labels = np.arange(20) % 3

    def train(name, seed):
        keras.utils.set_random_seed(len(name))  # the caller's, of no effect
        path = tmp_path / f"{name}.keras"
        options = {"num_steps": 4, "batch_size": 10, "verbose": 0}
        network = train_feature_network(
            images, labels, path, seed=seed, **options
        )
        return features(network, images)

    one, same, other = train("a", 0), train("bb", 0), train("ccc", 1)
    np.testing.assert_allclose(one, same, atol=1e-5)
    assert np.abs(one - other).max() > 0.1


@pytest.mark.heavy
def test_a_run_that_is_killed_leaves_no_file(images, tmp_path, monkeypatch):
    def killed(self, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_feature_network(
            images,
            np.arange(20) % 2,
            tmp_path / "features.keras",
            num_steps=1,
            verbose=0,
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.quick
def test_batches_do_not_change_features(images):
    network = feature_network((8, 8, 1), 2)
    whole = features(network, images, batch_size=20)
    assert whole.dtype == "float32"
    parts = features(network, images, batch_size=7)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


# Refusals.


def test_unfit_images_are_refused(images, tmp_path):
    path, labels = tmp_path / "features.keras", np.arange(20) % 2
    broken = images.copy()
    broken[3, 0, 0, 0] = np.nan
    pixels = np.round((images + 1) * 127.5)
    for bad, match in (
        (images[..., 0], "must have shape .* Received: shape"),
        (broken, "NaN or infinity in example 3"),
        (pixels, "from 0.0 to 255.0. Divide"),
        (pixels.astype("uint8"), "Received: uint8 from 0 to 255. Divide"),
        (images[:0], "one length, above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            train_feature_network(bad, labels, path)
        if bad is not pixels:  # samples may leave the range
            with pytest.raises(ValueError, match=match):
                features(feature_network((8, 8, 1), 2), bad)
    with pytest.raises(ValueError, match="Resize"):
        features(feature_network((28, 28, 1), 2), images)


def test_unfit_labels_and_paths_are_refused(images, tmp_path):
    path, labels = tmp_path / "features.keras", np.arange(20) % 2
    for bad in (labels[:19], labels[:, None], labels - 1):
        with pytest.raises(ValueError, match="class numbers .* Received: lab"):
            train_feature_network(images, bad, path)
    with pytest.raises(ValueError, match="Use labels .* and .*some.keras"):
        train_feature_network(images, labels, tmp_path / "some.h5")


def test_another_file_is_refused(images, tmp_path):
    path, labels = tmp_path / "features.keras", np.arange(20) % 2
    feature_network((28, 28, 1), 2).save(path)
    with pytest.raises(ValueError, match=r"\(8, 8, 1\). .*\(28, 28, 1\)"):
        train_feature_network(images, labels, path)
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]).save(
        path
    )
    with pytest.raises(ValueError, match="No such layer: features.* Use anot"):
        train_feature_network(images, labels, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="must hold a feature network"):
        train_feature_network(images, labels, path)


# Inception.


def test_inception_weights_that_cannot_be_had(monkeypatch):
    def no_network(**options):
        assert options["weights"] == "imagenet"
        raise Exception("URL fetch failure on https://storage:\nNone")

    monkeypatch.setattr(keras.applications, "InceptionV3", no_network)
    with pytest.raises(DataUnavailable, match="Received: URL fetch") as error:
        inception_features()
    assert "\n" not in str(error.value) and "`weights`" in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_is_given_299_pixels_in_colour(channels, monkeypatch):
    def stand_in(**options):
        assert options == {
            "include_top": False,
            "pooling": "avg",
            "weights": "a file",
        }
        images = keras.Input((299, 299, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(images)
        return keras.Model(images, pooled)

    monkeypatch.setattr(keras.applications, "InceptionV3", stand_in)
    shape = (24, 32, channels)
    extractor = inception_features(weights="a file", image_shape=shape)
    shades = np.linspace(-1, 1, channels)  # of a plain picture each
    images = np.broadcast_to(shades, (2, *shape))
    wanted = np.broadcast_to(shades, (2, 3))
    np.testing.assert_allclose(features(extractor, images), wanted, atol=1e-5)


@pytest.mark.slow
def test_inception_with_random_weights():
    extractor = inception_features(weights=None)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 24, 32, 3))
    ours = features(extractor, images)
    assert ours.shape == (3, 2048)
    assert np.isfinite(ours).all() and np.ptp(ours, 0).max() > 0
