"""Batches of arrays in an order that a resumed run repeats."""

import math

import keras
import numpy as np

from keras_dblocks import compat, streams


def is_array(x):
    """True for an array in host or device memory, False for a dataset."""
    return hasattr(x, "shape") and hasattr(x, "__getitem__")


class ResumableOrder:
    """Remembers where an epoch began, so that a killed run can continue it.

    A mix-in for models that are trained with `fit`. It needs
    `training_step()`, the number of steps taken so far, and `seed`.
    """

    def track_progress(self):
        """Makes a variable that is saved with the model; call it in `build`.

        It holds the first step of the current epoch, so that a run that was
        killed inside an epoch continues with the batches it has not seen.
        """
        self.epoch_start = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="epoch_start",
        )

    def counters(self):
        """Variables that are not weights but count steps and rows."""
        return [self.epoch_start]

    def training_step(self):
        """Number of training steps taken so far (int)."""
        raise NotImplementedError


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays in an order that follows from the seed and the step.

    Keras shuffles with a generator whose state is lost when a run is killed.
    Here an epoch's order is drawn from (seed, first step of the epoch), and
    an epoch that was interrupted is resumed where it stopped.

    Args:
        model: `ResumableOrder` that gives the seed and the training step.
        x, y, sample_weight: arrays of equal length. `y` and `sample_weight`
            may be None.
        batch_size: int.
        shuffle: bool.
    """

    def __init__(self, model, x, y, sample_weight, batch_size, shuffle):
        super().__init__()
        self.model = model
        arrays = [a for a in (x, y, sample_weight) if a is not None]
        if y is None and sample_weight is not None:
            raise ValueError(
                "`sample_weight` needs targets. Received: y=None. Pass `y`."
            )
        self.arrays = [keras.ops.convert_to_numpy(a) for a in arrays]
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.first_epoch = True
        self.offset = 0
        self.order = np.arange(len(self.arrays[0]))

    @property
    def num_batches(self):
        return self.batches_per_epoch - self.offset

    @property
    def batches_per_epoch(self):
        """Number of batches of an epoch that is not resumed half-way."""
        return math.ceil(len(self.order) / self.batch_size)

    def on_epoch_begin(self):
        model = self.model
        step = model.training_step()
        start = int(model.epoch_start)
        # BackupAndRestore sets the initial epoch when it restores a state.
        resumed = self.first_epoch and compat.initial_epoch(model) is not None
        self.first_epoch = False
        if resumed and start < step < start + self.batches_per_epoch:
            self.offset = step - start
        else:
            self.offset = 0
            start = step
            model.epoch_start.assign(step)
        if self.shuffle:
            draws = streams.generator(model.seed, "data_order", start)
            self.order = draws.permutation(len(self.order))

    def __getitem__(self, index):
        first = (index + self.offset) * self.batch_size
        rows = self.order[first : first + self.batch_size]
        batch = tuple(a[rows] for a in self.arrays)
        return batch if len(batch) > 1 else batch[0]
