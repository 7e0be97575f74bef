"""Models whose weights are made when they are first asked for."""

from typing import Any

import keras


class BuiltWhenRead:
    """`weights`, `count_params`, `pickle` and `deepcopy` before the first fit.

    A mix-in that stands before `keras.Model`, for models that `build` without
    having seen data.
    """

    @property
    def weights(self) -> list[keras.Variable]:
        """All variables, made now if the model has none yet."""
        self._build_once()
        return super().weights

    def count_params(self) -> int:
        """Number of all weights' elements."""
        self._build_once()
        return super().count_params()

    def set_weights(self, weights: Any) -> None:
        """As in Keras."""
        self._build_once()
        super().set_weights(weights)

    def __reduce__(self):
        # `pickle` and `copy.deepcopy` copy the weights.
        self._build_once()
        return super().__reduce__()

    def _build_once(self):
        if not self.built:
            self.build()
