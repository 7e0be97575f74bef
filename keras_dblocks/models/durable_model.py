"""What the whole model and a single block share: nothing is lost.

Data is checked before training starts, arrays are shuffled in an order that a
resumed run repeats, files are written beside and renamed.
"""

import os
import uuid

import keras
import numpy as np

from keras_dblocks.models.checks import check_rows, refuse_backend
from keras_dblocks.training.array_batches import ArrayBatches, is_array


class DurableModel(keras.Model):
    """A `keras.Model` that refuses bad data early and survives a kill."""

    def check_targets(self, x, y):
        """Raises a ValueError when there is nothing to learn from."""

    def check_data(self, x, y=None):
        """Raises a ValueError for data this model cannot be trained on."""

    def training_step(self):
        """Number of training steps taken so far (int)."""
        raise NotImplementedError

    def get_metrics_result(self):
        # Task metrics are computed in evaluation alone; Keras builds them at
        # their first update and cannot report them before.
        metrics = self._compile_metrics
        if metrics is None or metrics.built:
            return super().get_metrics_result()
        rest = [m for m in self.metrics if m is not metrics]
        return {metric.name: metric.result() for metric in rest}

    def get_build_config(self):
        return {"built": True}  # sizes are in the config

    def build_from_config(self, config):
        self.build()

    def _track_progress(self):
        # First step of the epoch under way: a run that was killed inside an
        # epoch goes on with the batches it had not seen.
        self.epoch_start = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="epoch_start",
        )

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """`keras.Model.fit`; arrays are checked whole before the first step.

        Arrays are shuffled in an order that depends on the seed and on the
        training step alone, so that a resumed run sees the same batches.
        """
        refuse_backend()
        if not self.built:
            self.build()
        kwargs.setdefault("validation_batch_size", batch_size)
        self._check_arrays(x, y, sample_weight)
        if is_array(x):
            arrays = (x, y, sample_weight)
            if validation_split and validation_data is None:
                arrays, validation_data = _split(arrays, validation_split)
            x = ArrayBatches(self, *arrays, batch_size or 32, shuffle)
            y = sample_weight = batch_size = None
            shuffle = False
        if isinstance(validation_data, (tuple, list)):
            self._check_arrays(*validation_data)
        return super().fit(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            **kwargs,
        )

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate`; arrays are checked first."""
        # After the batch size and `verbose`.
        sample_weight = kwargs.get("sample_weight", *args[2:3])
        self._check_arrays(x, y, sample_weight)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict`; arrays are checked first."""
        if is_array(x) or keras.tree.is_nested(x):
            self.check_data(x)
        return super().predict(x, *args, **kwargs)

    def _check_arrays(self, x, y=None, sample_weight=None):
        if not self.compiled:
            raise ValueError(
                "`fit` and `evaluate` need a compiled model. Received: "
                f'{self.name}, which is not. Call `compile("adamw")`.'
            )
        if is_array(x) or keras.tree.is_nested(x):
            self.check_targets(x, y)
            self.check_data(x, y)
            check_rows(x, y, sample_weight)

    def save(self, filepath, overwrite=True, **kwargs):
        """`keras.Model.save`, written beside and renamed."""
        self._write(super().save, ".keras", filepath, overwrite, **kwargs)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """`keras.Model.save_weights`, written beside and renamed."""
        write = super().save_weights
        self._write(write, ".weights.h5", filepath, overwrite, **kwargs)

    def load_weights(self, filepath, **kwargs):
        """`keras.Model.load_weights`; builds a fresh model first."""
        if not self.built:
            self.build()
        super().load_weights(filepath, **kwargs)

    def _write(self, write, suffix, filepath, overwrite, **kwargs):
        if not self.built:
            self.build()
        path = os.fspath(filepath)
        whole_file = path.endswith(suffix) and "://" not in path
        if not whole_file:
            write(path, overwrite=overwrite, **kwargs)
            return
        if os.path.exists(path) and not overwrite:
            question = f"{path} already exists - overwrite? [y/n] "
            if input(question).strip().lower() != "y":
                return
        folder, name = os.path.split(path)
        beside = os.path.join(folder, f".{uuid.uuid4().hex}.{name}")
        try:
            write(beside, overwrite=True, **kwargs)
            os.replace(beside, path)
        finally:
            if os.path.exists(beside):
                os.remove(beside)


def _split(arrays, share):
    count = len(arrays[0])
    first = int(np.floor(count * (1.0 - share)))
    if not 0 < first < count:
        raise ValueError(
            "`validation_split` must leave data on both sides. "
            f"Received: {share} of {count} examples. Use about 0.1."
        )
    train = tuple(None if a is None else a[:first] for a in arrays)
    validation = tuple(a[first:] for a in arrays if a is not None)
    return train, validation
