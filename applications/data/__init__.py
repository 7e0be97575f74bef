"""Images and text for training: data sets by name or file, and batches."""

from keras_dblocks.applications.data.augmentation import augmentation
from keras_dblocks.applications.data.augmented_dataset import AugmentedDataset
from keras_dblocks.applications.data.images import ImageData, load_images
from keras_dblocks.applications.data.sources import DataUnavailable
from keras_dblocks.applications.data.text import (
    ByteTokenizer,
    Text8Tokenizer,
    TextData,
    load_text,
)
from keras_dblocks.applications.data.text_batches import RandomChunks, chunks

__all__ = [
    "AugmentedDataset",
    "ByteTokenizer",
    "DataUnavailable",
    "ImageData",
    "RandomChunks",
    "Text8Tokenizer",
    "TextData",
    "augmentation",
    "chunks",
    "load_images",
    "load_text",
]
