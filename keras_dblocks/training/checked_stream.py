"""Datasets whose batches are checked on their way to a model."""

import contextlib
import importlib

import keras

from keras_dblocks import compat
from keras_dblocks.training.user_data import is_arrays


class CheckedStream(compat.DataAdapter):
    """What Keras reads from a dataset, where `check` sees each batch first.

    Args:
        adapter: Keras's own adapter of the dataset.
        check: function of a batch and its number in the pass (from 1), which
            raises a ValueError for a bad one.
    """

    def __init__(self, adapter, check):
        self.adapter = adapter
        self.check = check
        self.error = None
        self.number = 0  # of the last batch of this pass

    def __getattr__(self, name):
        return getattr(self.adapter, name)

    def get_numpy_iterator(self):
        return self._checked(self.adapter.get_numpy_iterator())

    def get_jax_iterator(self):
        return self._checked(self.adapter.get_jax_iterator())

    def get_torch_dataloader(self):
        return self._checked(self.adapter.get_torch_dataloader())

    def get_tf_dataset(self):
        step = importlib.import_module("keras_dblocks.training.tensorflow_step")
        return step.each_batch(self.adapter.get_tf_dataset(), self._look)

    num_batches = property(lambda self: self.adapter.num_batches)
    batch_size = property(lambda self: self.adapter.batch_size)
    has_partial_batch = property(lambda self: self.adapter.has_partial_batch)
    partial_batch_size = property(lambda self: self.adapter.partial_batch_size)

    def on_epoch_begin(self):
        self.number = 0
        self.adapter.on_epoch_begin()

    def on_epoch_end(self):
        self.adapter.on_epoch_end()

    def _checked(self, batches):
        for batch in batches:
            self._look(batch)
            yield batch

    def _look(self, batch):
        self.number += 1
        try:
            self.check(batch, self.number)
        except ValueError as error:
            self.error = error
            raise


def checked(x, check, shuffle=False, class_weight=None):
    """A dataset with checks; arrays and None are returned as they are.

    Args:
        x: what Keras takes as `x`.
        check: see `CheckedStream`.
        shuffle: bool. Whether Keras shuffles the batches of a `PyDataset`.
        class_weight: as in `keras.Model.fit`.
    """
    if x is None or is_arrays(x) or isinstance(x, CheckedStream):
        return x
    shuffle = shuffle and isinstance(x, keras.utils.PyDataset)
    return CheckedStream(compat.data_adapter(x, shuffle, class_weight), check)


@contextlib.contextmanager
def own_errors(*streams):
    """Raises a stream's own error where a backend has wrapped it."""
    try:
        yield
    except Exception:
        for stream in streams:
            if isinstance(stream, CheckedStream) and stream.error:
                raise stream.error from None
        raise
