"""Augmentation and the batches it is applied to."""

import keras
import numpy as np
import pytest

from keras_dblocks.applications import DiT, ViT
from keras_dblocks.applications.data import (
    AugmentedDataset,
    augmentation,
    load_images,
)
from keras_dblocks.applications.data.augmentation import (
    GROUP,
    RandAugment,
    _apply,
    _solarize,
    crop,
    flip,
)

# Warnings of other packages, which the suite would turn into errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Tensor.T is deprecated"),  # Keras, torch
]


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# Augmentation.


def test_flip_mirrors_about_half(generator):
    images = generator.random((400, 3, 4, 1), "float32")
    flipped = flip(images, generator)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == images).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


def test_crop_shifts_each_image_by_its_own_amount(generator):
    images = generator.random((64, 6, 7, 2), "float32") + 0.1
    shifts = set()
    for image, cropped in zip(images, crop(images, generator), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        places = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if (padded[top : top + 6, left : left + 7] == cropped).all()
        ]
        assert len(places) == 1
        shifts.update(places)
    assert len(shifts) > 20


def test_solarize_inverts_what_is_bright():
    images = np.array([0.0, 178.0, 179.0, 255.0])
    np.testing.assert_array_equal(_solarize(images), [0.0, 178.0, 76.0, 0.0])


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_keeps_range_and_strength(channels, generator):
    # Smooth images: moving them a little changes them a little.
    ramp = np.linspace(60, 160, 8, dtype="float32")
    images = np.broadcast_to(ramp[:, None, None], (GROUP, 8, 8, channels))
    names = []
    for operation in RandAugment(channels).operations:
        if not isinstance(operation, keras.Layer):
            continue
        names.append(type(operation).__name__)
        changed = _apply(operation, images, generator)
        changed = keras.ops.convert_to_numpy(changed)
        assert changed.shape == images.shape and changed.dtype == "float32"
        assert changed.min() >= -1e-3 and changed.max() <= 255.001
        if names[-1] in ("AutoContrast", "Equalization"):
            assert changed.min() < 30 and changed.max() > 250
        else:
            inside = np.s_[:, 2:-2, 2:-2]
            moved = np.abs(changed[inside] - images[inside]).max()
            assert moved < 0.271 * 255, names[-1]
    color = {"RandomColorDegeneration"} if channels == 3 else set()
    assert color == {name for name in names if "Color" in name}


def test_randaugment_treats_groups_apart_and_keeps_its_input(generator):
    images = np.repeat(generator.random((1, 8, 8, 3), "float32"), 3 * GROUP, 0)
    images = images[:-5]  # the last group is not full
    before = images.copy()
    augmented = RandAugment()(images, generator)
    np.testing.assert_array_equal(images, before)
    assert augmented.shape == images.shape and augmented.dtype == "float32"
    assert augmented.min() >= 0 and augmented.max() <= 1
    change = np.abs(augmented - images).mean((1, 2, 3))
    groups = [change[i : i + GROUP].mean() for i in range(0, 43, GROUP)]
    assert len({round(float(g), 6) for g in groups}) > 1


@pytest.mark.parametrize(
    "kind", ["flip", "flip_crop", "flip_randaugment", "flip_crop_randaugment"]
)
def test_the_generator_alone_decides(kind, generator):
    images = generator.random((4, 8, 8, 3), "float32")
    one, two, other = (
        augmentation(kind)(images, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize("presets", [ViT.presets, DiT.presets])
def test_presets_name_augmentations_that_exist(presets):
    for preset in presets.values():
        kind = preset["training"]["augmentation"]
        augment = augmentation(kind, preset["config"]["channels"])
        assert (augment is None) == (kind == "none")


def test_augmentation_refusals():
    assert augmentation("none") is None
    with pytest.raises(ValueError, match="flip_crop.*Received: .fast.*Use"):
        augmentation("fast")
    with pytest.raises(ValueError, match="1 or 3 channels.*channels=2"):
        augmentation("flip_randaugment", channels=2)


# Batches.


def dataset(count=50, **kwargs):
    x = np.arange(count, dtype="float32").reshape(count, 1, 1, 1)
    return AugmentedDataset(x, np.arange(count), 8, **kwargs)


def labels_of(batches):
    return np.concatenate([y for _, y in batches])


def test_an_epoch_visits_each_image_once_in_an_order_of_its_own():
    batches = dataset()
    first = labels_of(batches)
    batches.set_epoch(1)
    second = labels_of(batches)
    assert sorted(first) == sorted(second) == list(range(50))
    assert (first != second).any() and (first != np.arange(50)).any()

    later = dataset()
    later.set_epoch(1)
    np.testing.assert_array_equal(labels_of(later), second)
    assert (labels_of(dataset(seed=1)) != first).any()
    np.testing.assert_array_equal(
        labels_of(dataset(shuffle=False)), np.arange(50)
    )
    assert [len(y) for _, y in dataset(drop_remainder=True)] == [8] * 6
    assert [len(y) for _, y in dataset()] == [8] * 6 + [2]


def test_images_are_augmented_as_pixels(generator):
    mean, std = np.float32([0.4, 0.5]), np.float32([0.2, 0.3])
    pixels = generator.random((10, 4, 4, 2), "float32")
    seen = []

    def darken(images, generator):
        seen.append(images)
        return images / 2

    batches = AugmentedDataset(
        (pixels - mean) / std, np.arange(10), 10, darken, mean, std
    )
    x, y = batches[0]
    np.testing.assert_allclose(seen[0], pixels[y], atol=1e-6)
    np.testing.assert_allclose(x, (pixels[y] / 2 - mean) / std, atol=1e-5)
    assert x.dtype == "float32"


def test_dataset_refusals():
    with pytest.raises(ValueError, match="50 images and 3 targets"):
        AugmentedDataset(np.zeros((50, 1, 1, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="batch_size=0 for 50 images"):
        AugmentedDataset(np.zeros((50, 1, 1, 1)), np.zeros(50), 0)
    with pytest.raises(ValueError, match="leave at least one batch"):
        dataset(count=7, drop_remainder=True)


def test_a_resumed_fit_sees_the_batches_it_would_have_seen():
    data = load_images("digits")

    def fit(model, first, epochs):
        train = AugmentedDataset(
            data.x_train[:96],
            data.y_train[:96],
            batch_size=32,
            augment=augmentation("flip_crop", channels=1),
            mean=data.mean,
            std=data.std,
        )
        history = model.fit(
            train,
            initial_epoch=first,
            epochs=epochs,
            verbose=0,
            shuffle=False,
            callbacks=[train.epoch_callback()],
        )
        return history.history["loss"]

    def build():
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
        layers.append(keras.layers.Dense(10, kernel_initializer="zeros"))
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
        return model

    whole = fit(build(), 0, 4)
    model = build()
    losses = fit(model, 0, 2)
    losses += fit(model, 2, 4)
    assert losses == whole
    assert len(set(whole)) == 4


def test_randaugment_runs_inside_fit(generator):
    x = generator.random((20, 8, 8, 3), "float32")
    train = AugmentedDataset(
        x, np.zeros(20), 10, augmentation("flip_randaugment")
    )
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(train, verbose=0).history["loss"]).all()
