"""Texts as tensorflow-datasets gives them."""

import pytest


@pytest.fixture
def documents():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=5):
        source = tfds.data_source("lm1b", split="train")
        yield [example["text"] for example in source]
