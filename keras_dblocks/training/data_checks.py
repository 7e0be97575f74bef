"""Refuses bad data before the first step, or at the first bad batch."""

from typing import Any

import keras
from keras import tree

from keras_dblocks import compat, processes
from keras_dblocks.checks import check_rows, refuse_backend
from keras_dblocks.files.adapters import reset_lora
from keras_dblocks.training.checked_stream import checked, own_errors
from keras_dblocks.training.data_order import ArrayBatches
from keras_dblocks.training.user_data import as_arrays, is_arrays


class CheckedData(compat.KeptState):
    """`fit`, `evaluate` and `predict` that check their data first.

    A mix-in that stands before `ResumableOrder` and `keras.Model`. Arrays are
    checked as a whole and put into batches whose order a resumed run repeats.
    Datasets are checked batch by batch if a batch lies in host memory.
    """

    # Whether `fit` averages the gradients of several PyTorch processes.
    joins_processes = False

    def check_targets(self, x: Any, y: Any) -> None:
        """Raises a ValueError if there is no target to learn from."""

    def check_data(self, x: Any, y: Any = None) -> None:
        """Raises a ValueError for data this model cannot be trained on."""

    def own_callbacks(self, batches: Any) -> list[keras.callbacks.Callback]:
        """List of callbacks that every `fit` calls after the user's.

        Args:
            batches: what `fit` takes batches from.
        """
        return []

    def input_specs(self) -> Any:
        """`keras.KerasTensor` of an input, or a tree of them; None unknown."""

    def get_metrics_result(self):
        # Task metrics are computed in evaluation alone. Keras builds them at
        # their first update and cannot report them before.
        metrics = compat.compile_metrics(self)
        if metrics is None or metrics.built:
            return super().get_metrics_result()
        found = {}
        for metric in self.metrics:
            if metric is not metrics:
                value = metric.result()
                own = value if isinstance(value, dict) else {metric.name: value}
                found.update(own)
        return found

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`keras.Model.fit` that checks whole arrays before the first step.

        Arrays are shuffled in an order that depends only on the seed and the
        training step, so that a resumed run sees the same batches. With
        `steps_per_epoch` all rows are seen before any is seen again. Besides
        arrays, pandas objects and lists of numbers are taken, and dicts and
        tuples of these.
        """
        refuse_backend()
        if not self.joins_processes:
            processes.refuse_alone(self)
        self._check_compiled()
        if not self.built:
            self.build()
        self._check_optimizer()
        reset_lora(self)
        kwargs.setdefault("validation_batch_size", batch_size)
        arrays = as_arrays((x, y, sample_weight))
        self._check_arrays(*arrays)
        if is_arrays(arrays[0]):
            if validation_split and validation_data is None:
                arrays, validation_data = _split(arrays, validation_split)
            x = ArrayBatches(  # type: ignore[call-arg]  # arrays: three
                self, *arrays, batch_size or 32, shuffle, steps_per_epoch
            )
            y = sample_weight = batch_size = steps_per_epoch = None
            shuffle = False
        elif validation_split:
            raise ValueError(
                "`validation_split` cuts arrays. Received: validation_split="
                f"{validation_split} with a {type(x).__name__}. "
                "Pass a dataset of its own as `validation_data`."
            )
        elif y is None and sample_weight is None:
            x = checked(x, self.check_batch, shuffle, class_weight)
            class_weight, shuffle = None, False
        if isinstance(validation_data, (tuple, list)):
            validation_data = as_arrays(tuple(validation_data))
            self._check_arrays(*validation_data)
        else:
            validation_data = checked(validation_data, self.check_batch)
        callbacks = _with(callbacks, self.own_callbacks(x))
        with own_errors(x, validation_data):
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
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                **kwargs,
            )

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """`keras.Model.train_on_batch` that checks the arrays first."""
        arrays = as_arrays((x, y, sample_weight))
        self._check_arrays(*arrays)
        return super().train_on_batch(*arrays, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """`keras.Model.evaluate` that checks arrays first."""
        self._check_compiled()
        x, y = as_arrays((x, y))
        # As a positional argument it follows `batch_size` and `verbose`.
        sample_weight = kwargs.get("sample_weight", *args[2:3])
        self._check_arrays(x, y, sample_weight)
        x = checked(x, self.check_batch)
        with own_errors(x):
            found = super().evaluate(x, y, *args, **kwargs)
        if compat.inside_fit(kwargs):  # callbacks decide alike everywhere
            found = processes.mean_logs(found)
        return found

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.predict` that checks arrays first."""
        x = as_arrays(x)
        if is_arrays(x):
            self.check_data(x)
        x = checked(x, self._check_inputs)
        with own_errors(x):
            return super().predict(x, *args, **kwargs)

    def check_batch(
        self, data: Any, number: int, inputs_only: bool = False
    ) -> None:
        """Refuses a bad batch of a dataset.

        Its numbers are checked if they lie in host memory, since a transfer
        from an accelerator would take long.

        Args:
            data: batch as Keras provides it.
            number: int, for the error message.
            inputs_only: bool. Whether targets are not needed.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        y = None if inputs_only else y
        if not inputs_only:
            self.check_structure(x, y)
        leaves = [leaf for leaf in tree.flatten((x, y)) if leaf is not None]
        if not all("cpu" in str(leaf.device).lower() for leaf in leaves):
            return
        try:
            self.check_data(x, y)
        except ValueError as error:
            raise ValueError(f"Batch {number}: {error}") from error

    def _check_inputs(self, data, number):
        self.check_batch(data, number, inputs_only=True)

    def check_structure(self, x: Any, y: Any) -> None:
        """Refuses a batch that is no pair of inputs and targets."""
        spec = self.input_specs()
        if isinstance(x, dict) and not isinstance(spec, dict) and y is None:
            raise ValueError(
                "A dataset must yield pairs `(x, y)`. Received: a dict of "
                f"{', '.join(map(repr, x))}. Use `dataset.map(lambda row: "
                "(row['image'], row['label']))`, with the names of yours."
            )
        self.check_targets(x, y)

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
        if is_arrays(x):
            self.check_targets(x, y)
            self.check_data(x, y)
            self.check_rows(x, y, sample_weight)

    def check_rows(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Refuses arrays whose rows are not those of the others."""
        check_rows(x, y, sample_weight)


def _with(callbacks, own):
    """The callbacks of `fit`, as Keras takes them, followed by our own."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        for callback in own:
            callback.set_params(callbacks.params)
            callbacks.append(callback)
        return callbacks
    given = processes.callbacks_of(tree.flatten(callbacks or []))
    return [*given, *own]


def _split(arrays, share):
    count = len(tree.flatten(arrays[0])[0])
    first = int(count * (1.0 - share))
    if not 0 < first < count:
        raise ValueError(
            "`validation_split` must leave data on both sides. "
            f"Received: {share} of {count} examples. Use about 0.1."
        )
    train, validation = (
        _rows(arrays, slice(first)),
        _rows(arrays, slice(first, None)),
    )
    return train, tuple(part for part in validation if part is not None)


def _rows(arrays, rows):
    return tree.map_structure(lambda a: None if a is None else a[rows], arrays)
