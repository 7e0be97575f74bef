"""Refuses bad data before the first step, or at the first bad batch."""

import keras
from keras import tree

from keras_dblocks import compat
from keras_dblocks.checks import check_rows, refuse_backend
from keras_dblocks.files.adapters import reset_lora
from keras_dblocks.training.data_order import ArrayBatches, is_array


class CheckedData:
    """`fit`, `evaluate` and `predict` that check their data first.

    A mix-in that stands before `ResumableOrder` and `keras.Model`. Arrays are
    checked as a whole and put into batches whose order a resumed run repeats.
    Datasets are checked batch by batch if a batch lies in host memory.
    """

    def check_targets(self, x, y):
        """Raises a ValueError if there is no target to learn from."""

    def check_data(self, x, y=None):
        """Raises a ValueError for data this model cannot be trained on."""

    def get_metrics_result(self):
        # Task metrics are computed in evaluation alone. Keras builds them at
        # their first update and cannot report them before.
        metrics = compat.compile_metrics(self)
        if metrics is None or metrics.built:
            return super().get_metrics_result()
        rest = [m for m in self.metrics if m is not metrics]
        return {metric.name: metric.result() for metric in rest}

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
        """`keras.Model.fit` that checks whole arrays before the first step.

        Arrays are shuffled in an order that depends only on the seed and the
        training step, so that a resumed run sees the same batches.
        """
        refuse_backend()
        self._check_compiled()
        if not self.built:
            self.build()
        self._check_optimizer()
        reset_lora(self)
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
        """`keras.Model.evaluate` that checks arrays first."""
        self._check_compiled()
        # As a positional argument it follows `batch_size` and `verbose`.
        sample_weight = kwargs.get("sample_weight", *args[2:3])
        self._check_arrays(x, y, sample_weight)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict` that checks arrays first."""
        if is_array(x) or tree.is_nested(x):
            self.check_data(x)
        return super().predict(x, *args, **kwargs)

    def check_batch(self, data, number):
        """Refuses a bad batch of a dataset if it lies in host memory.

        Checking a batch on an accelerator would cost a transfer.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        leaves = [leaf for leaf in tree.flatten((x, y)) if leaf is not None]
        if not all("cpu" in str(leaf.device).lower() for leaf in leaves):
            return
        try:
            self.check_data(x, y)
        except ValueError as error:
            raise ValueError(f"Batch {number} of `fit`: {error}") from error

    def _check_compiled(self):
        if not self.compiled:
            raise ValueError(
                "`fit` and `evaluate` need a compiled model. Received: "
                f'{self.name}, which is not. Call `compile("adamw")`.'
            )

    def _check_optimizer(self):
        if not self.optimizer.built:
            return
        known = {id(v) for v in compat.trainable_variables(self.optimizer)}
        new = [v for v in self.trainable_variables if id(v) not in known]
        if new:
            raise ValueError(
                "What trains must have been there at `compile`. Received: "
                f"{len(new)} new variables, such as {new[0].path!r} (of "
                "`enable_lora`, perhaps). Call `compile` again."
            )

    def _check_arrays(self, x, y=None, sample_weight=None):
        if is_array(x) or tree.is_nested(x):
            self.check_targets(x, y)
            self.check_data(x, y)
            check_rows(x, y, sample_weight)


def _split(arrays, share):
    count = len(arrays[0])
    first = int(count * (1.0 - share))
    if not 0 < first < count:
        raise ValueError(
            "`validation_split` must leave data on both sides. "
            f"Received: {share} of {count} examples. Use about 0.1."
        )
    train = tuple(None if a is None else a[:first] for a in arrays)
    validation = tuple(a[first:] for a in arrays if a is not None)
    return train, validation
