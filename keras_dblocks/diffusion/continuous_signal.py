"""The clean signal of generation: the data itself."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks.checks import check_array, check_value_range, is_integer
from keras_dblocks.diffusion.target import Target


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ContinuousSignal(Target):
    """Images, latents or other arrays, noised as they are.

    Args:
        signal_shape: tuple. Shape of one example.
        value_range: pair of floats, or None. The data's range, mapped to
            [-1, 1]; None takes the data as it is. Defaults to `(-1, 1)`.

    Call arguments:
        x: tensor `(B, *signal_shape)` in the data's range.

    Returns:
        float32 tensor of the same shape.

    Example:

    ```python
    target = ContinuousSignal((2,), value_range=(0.0, 16.0))
    target(np.array([[0.0, 8.0]]))  # [[-1, 0]]
    ```
    """

    def __init__(
        self,
        signal_shape: Sequence[int],
        value_range: Sequence[float] | None = (-1.0, 1.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        shape = signal_shape if isinstance(signal_shape, (tuple, list)) else ()
        if not shape or not all(is_integer(s) and s > 0 for s in shape):
            raise ValueError(
                "`signal_shape` must be a tuple of sizes above 0. "
                f"Received: signal_shape={signal_shape!r}. "
                "Use (1,) for one number, and reshape the data to (N, 1)."
            )
        check_value_range(value_range)
        self._shape = tuple(int(size) for size in shape)
        self.value_range = value_range

    @property
    def signal_shape(self) -> tuple[int, ...]:
        return self._shape

    def build(self, x_shape=None):
        """Does nothing, since the layer has no weights."""

    def call(self, x):
        x = ops.cast(x, "float32")
        if self.value_range is None:
            return x
        low, high = self.value_range
        return (x - low) * (2.0 / (high - low)) - 1.0

    def in_units(self, prediction: Any) -> Any:
        """Maps a prediction in [-1, 1] back to the data's range."""
        if self.value_range is None:
            return prediction
        low, high = self.value_range
        return low + (prediction + 1.0) * ((high - low) / 2.0)

    def restore(self, clean: np.ndarray) -> np.ndarray:
        """Maps numpy `clean` back to the data's range and clips it."""
        if self.value_range is None:
            return clean
        low, high = self.value_range
        share = (np.clip(clean, -1.0, 1.0) + 1.0) / 2.0
        return (low + share * (high - low)).astype("float32")

    def bridge(self, prediction: Any) -> Any:
        """Returns the prediction, which estimates the clean signal itself."""
        return prediction

    def loss(
        self, x: Any, prediction: Any, noisy: Any = None, level: Any = None
    ) -> Any:
        """Mean squared error of each example, `(B,)`."""
        error = ops.square(ops.subtract(prediction, self.call(x)))
        return ops.mean(error, axis=tuple(range(1, len(error.shape))))

    def check(self, x: Any) -> None:
        """Refuses data of another shape, outside the range, or not finite."""
        check_array(x, keras.KerasTensor((None, *self.signal_shape)), "Data")
        if self.value_range is None or not len(x):
            return
        low, high = self.value_range
        if x.min() < low or x.max() > high:
            raise ValueError(
                f"Data must lie in `value_range`, {low} to {high}. Received: "
                f"{x.min()} to {x.max()}. Rescale it, or pass "
                "`value_range=(0, 255)` or what it is."
            )

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype="float32")
