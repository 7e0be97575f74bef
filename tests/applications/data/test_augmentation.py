"""Augmentation and the batches it is applied to."""

import numpy as np
import pytest

from keras_dblocks.applications.data import (
    AugmentedDataset,
    augmentation,
)
from keras_dblocks.applications.data.augmentation import (
    crop,
    flip,
)

pytestmark = pytest.mark.once


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# Images.


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


def test_an_epoch_is_shorter_or_longer_than_a_pass():
    short = dataset(steps_per_epoch=2)
    assert short.num_batches == len(list(short)) == 2
    first = labels_of(short)
    assert len(set(first)) == 16
    short.set_epoch(1)  # of another pass
    assert (labels_of(short) != first).any()
    long = labels_of(dataset(steps_per_epoch=15))
    assert len(long) == 120
    np.testing.assert_array_equal(long[:50], labels_of(dataset()))
    assert sorted(long[50:100]) == list(range(50))
    assert (long[50:100] != long[:50]).any()


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
