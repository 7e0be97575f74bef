"""Batches of arrays in an order that a resumed run repeats."""

import math

import keras
import numpy as np
from keras import tree

from keras_dblocks import compat, streams


class ResumableOrder:
    """Remembers where an epoch began, so that a killed run can continue it.

    A mix-in for models that are trained with `fit`. It needs
    `training_step()`, the number of steps taken so far, and `seed`.
    """

    def track_progress(self) -> None:
        """Makes two variables saved with the model; call it in `build`.

        They hold the first step of the current epoch and that of the current
        `fit`, so that a run that was killed inside an epoch continues with the
        batches it has not seen.
        """
        self.epoch_start, self.fit_start = (
            self.add_weight(
                shape=(),
                initializer="zeros",
                dtype="int32",
                trainable=False,
                name=name,
            )
            for name in ("epoch_start", "fit_start")
        )

    def counters(self) -> list[keras.Variable]:
        """Variables that are not weights but count steps and rows."""
        return [self.epoch_start, self.fit_start]

    def training_step(self) -> int:
        """Number of training steps taken so far (int)."""
        raise NotImplementedError


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays in an order that follows from the seed and the step.

    Keras shuffles with a generator whose state is lost when a run is killed.
    Here the order of each pass through the rows is drawn from (seed, first
    step of the pass). An epoch that was interrupted is resumed where it
    stopped. Epochs shorter or longer than a pass (`steps_per_epoch`) go on in
    the pass where the last one ended, so that no row comes again before all
    others came.

    Args:
        model: `ResumableOrder` that gives the seed and the training step.
        x, y, sample_weight: arrays of equal length, or trees of them. `y` and
            `sample_weight` may be None.
        batch_size: int.
        shuffle: bool.
        steps_per_epoch: int, or None for one pass an epoch.
    """

    def __init__(
        self,
        model,
        x,
        y,
        sample_weight,
        batch_size,
        shuffle,
        steps_per_epoch=None,
    ):
        super().__init__()
        if y is None and sample_weight is not None:
            raise ValueError(
                "`sample_weight` needs targets. Received: y=None. Pass `y`."
            )
        self.model = model
        parts = [part for part in (x, y, sample_weight) if part is not None]
        # TensorFlow takes the lists in a batch for arrays.
        parts = tree.lists_to_tuples(tuple(parts))
        self.data = tree.map_structure(keras.ops.convert_to_numpy, parts)
        self.num_rows = len(tree.flatten(self.data)[0])
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.batches_per_pass = math.ceil(self.num_rows / batch_size)
        self.steps_per_epoch = steps_per_epoch or self.batches_per_pass
        self.first_epoch = True
        self.was_restored = False
        self.offset = 0  # batches of this epoch that a killed run has seen
        self.fit_start = 0
        self.first_batch = 0  # number of the epoch's next batch in this `fit`
        self.orders = {}  # rows by the first step of the last two passes

    @property
    def num_batches(self):
        return self.steps_per_epoch - self.offset

    def on_epoch_begin(self):
        model, self.offset = self.model, 0
        step, start = model.training_step(), int(model.epoch_start)
        # BackupAndRestore sets the initial epoch when it restores a state,
        # perhaps after Keras has begun an epoch to look at a batch.
        restored = compat.initial_epoch(model) is not None
        resumed = restored and not self.was_restored
        self.was_restored = restored
        if self.first_epoch and not resumed:
            model.fit_start.assign(step)
        self.first_epoch = False
        if resumed and start < step < start + self.steps_per_epoch:
            self.offset = step - start
        else:
            model.epoch_start.assign(step)
        self.fit_start = int(model.fit_start)
        self.first_batch = step - self.fit_start

    def __getitem__(self, index):
        rows = self._rows(self.first_batch + index)
        return tree.map_structure(lambda array: array[rows], self.data)

    def rows_of_step(self, step):
        """Numbers of the rows of a training step of this `fit`."""
        return self._rows(step - self.fit_start)

    def _rows(self, batch):
        number, batch = divmod(batch, self.batches_per_pass)
        first = batch * self.batch_size
        return self._order_of_pass(number)[first : first + self.batch_size]

    def _order_of_pass(self, number):
        step = self.fit_start + number * self.batches_per_pass
        orders = self.orders  # two threads may ask, for neighbouring passes
        if step not in orders:
            order = np.arange(self.num_rows)
            if self.shuffle:
                draws = streams.generator(self.model.seed, "data_order", step)
                order = draws.permutation(self.num_rows)
            last = dict(list(orders.items())[-1:])
            orders = self.orders = {**last, step: order}
        return orders[step]
