"""Numbers the rows of `predict` and `evaluate` across batches."""

import contextlib
from typing import Any

from keras_dblocks import streams


class NumberedRows:
    """Gives each row of a call its own noise at any batch size.

    A mix-in that stands before `keras.Model`. Row i of one `predict` or
    `evaluate` has number i, so an answer depends neither on `batch_size` nor
    on the other rows. If a model is called as a function or was exported,
    rows are counted within the batch.
    """

    # "predict" or "evaluate" while that step is computed
    phase: str | None = None

    def make_row_counter(self) -> None:
        """Makes the variable that counts rows; call it in `build`."""
        self.first_row = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="first_row",
        )

    def counters(self):
        return [*super().counters(), self.first_row]

    def row_numbers(self, batch_size: Any, phase: str) -> Any:
        """Numbers `(B,)` of a batch's rows; in `phase` it also counts them."""
        rows = streams.rows_of(batch_size)
        if self.phase is None:
            return rows
        rows = self.first_row + rows
        if self.phase == phase:
            self.first_row.assign(self.first_row + batch_size)
        return rows

    @contextlib.contextmanager
    def _in_phase(self, phase):
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def predict_step(self, *args):
        with self._in_phase("predict"):
            return super().predict_step(*args)

    def test_step(self, *args):
        with self._in_phase("evaluate"):
            return super().test_step(*args)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        with self._counting_rows():
            return super().predict(x, *args, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        with self._counting_rows():
            return super().evaluate(x, y, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        with self._counting_rows():
            return super().predict_on_batch(x)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._counting_rows():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _counting_rows(self):
        """Counts from zero, and resets the counter so that none is saved."""
        if not self.built:
            self.build()
        self.first_row.assign(0)
        try:
            yield
        finally:
            self.first_row.assign(0)

    def __setattr__(self, name, value):
        if name == "phase":  # a built layer is locked for Keras's own setter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)
