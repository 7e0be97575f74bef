"""Augmentation by Keras layers: RandAugment."""

import keras
import numpy as np
import pytest

from keras_dblocks.applications.data import AugmentedDataset, augmentation
from keras_dblocks.applications.data.augmentation import (
    GROUP,
    RandAugment,
    _apply,
    _solarize,
)

# Warnings of other packages, which the suite would turn into errors.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Tensor.T is deprecated"  # Keras, torch
)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


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
    "kind", ["flip_crop", "flip_randaugment", "flip_crop_randaugment"]
)
def test_the_generator_alone_decides(kind, generator):
    images = generator.random((4, 8, 8, 3), "float32")
    one, two, other = (
        augmentation(kind)(images, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_randaugment_runs_inside_fit(generator):
    x = generator.random((20, 8, 8, 3), "float32")
    train = AugmentedDataset(
        x, np.zeros(20), 10, augmentation("flip_randaugment")
    )
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(train, verbose=0).history["loss"]).all()
