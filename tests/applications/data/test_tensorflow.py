"""Sets of tensorflow-datasets, read with TensorFlow and without."""

import os
import subprocess
import sys
import textwrap

import keras
import pytest

from keras_dblocks.applications.data import load_images


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs TensorFlow to read"
)
def test_tfds_reads_a_set_prepared_for_tensorflow(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def refuse(*args, **kwargs):
        raise ValueError("File format is already set to FileFormat.TFRECORD.")

    with tfds.testing.mock_data(num_examples=5):
        monkeypatch.setattr(tfds, "data_source", refuse)
        data = load_images("cifar10")
    assert data.x_train.shape == (5, 32, 32, 3) and data.num_classes == 10


@pytest.mark.heavy
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="keras imports TensorFlow"
)
def test_tfds_reads_where_tensorflow_is_not_installed():
    pytest.importorskip("tensorflow_datasets")
    program = """
    import sys
    from importlib.machinery import PathFinder

    class WithoutTensorFlow:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split(".")[0] != "tensorflow":
                return PathFinder.find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow

    import numpy as np
    import tensorflow_datasets as tfds
    from keras_dblocks.applications.data import augmentation, load_images

    with tfds.testing.mock_data(num_examples=3):
        data = load_images("cifar100")
    augment = augmentation("flip_crop")
    augment(data.x_train, np.random.default_rng(0))
    assert "tensorflow" not in sys.modules
    print(data.x_train.shape)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(3, 32, 32, 3)"


@pytest.mark.heavy
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="keras imports TensorFlow"
)
def test_text_is_read_quietly_and_without_tensorflow():
    pytest.importorskip("tensorflow_datasets")
    program = """
    import sys
    import tensorflow_datasets as tfds
    from keras_dblocks.applications.data import RandomChunks, load_text

    load_text("python")  # `import this` would print
    with tfds.testing.mock_data(num_examples=3):
        print(RandomChunks(load_text("lm1b").train, 4, batch_size=2)[0].shape)
    assert "tensorflow" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(2, 4)"
