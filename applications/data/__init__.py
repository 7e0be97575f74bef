"""Images to train on: sets by name or file, and their augmentation."""

from keras_dblocks.applications.data.augmentation import augmentation
from keras_dblocks.applications.data.augmented_dataset import AugmentedDataset
from keras_dblocks.applications.data.images import ImageData, load_images
from keras_dblocks.applications.data.sources import DataUnavailable

__all__ = [
    "AugmentedDataset",
    "DataUnavailable",
    "ImageData",
    "augmentation",
    "load_images",
]
