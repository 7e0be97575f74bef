"""Moving averages of weights, which count their own steps."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops


class MovingAverage(keras.layers.Layer):
    """Averages of variables over the training steps they took part in.

    The momentum is warmed up: it is `min(momentum, (1 + t) / (10 + t))` at
    update `t`, so that a short run has an average worth using.

    Args:
        momentum: float. Weight of the former average, below 1.

    Example:

    ```python
    weight = keras.Variable([1.0])
    average = MovingAverage(0.999)
    average.follow([weight])
    average.update()  # in a training step; the first one copies
    average.values()  # [1.0]
    ```

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), Section 4 (0.9999)
    """

    def __init__(self, momentum: float, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.momentum = momentum

    def follow(self, variables: Iterable[keras.Variable]) -> None:
        """Makes averages of `variables`, which remain other layers' weights."""
        variables = list(variables)
        self._followed = lambda: variables  # as Keras would track a list
        self.updates = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="updates",
        )
        self.averages = [
            self.add_weight(
                shape=variable.shape,
                initializer="zeros",
                dtype=variable.dtype,
                trainable=False,
                name=variable.path.replace("/", "-"),  # for `layout_map`
            )
            for variable in variables
        ]
        self.built = True

    def update(self) -> None:
        """Adds the present values; called in each training step."""
        t = ops.cast(self.updates, "float32")
        rate = 1.0 - ops.minimum(self.momentum, (1.0 + t) / (10.0 + t))
        rate = ops.where(t == 0, 1.0, rate)  # the first update copies
        for variable, average in zip(
            self._followed(), self.averages, strict=True
        ):
            value = ops.stop_gradient(ops.convert_to_tensor(variable))
            past = ops.convert_to_tensor(average)
            average.assign(past + ops.cast(rate, value.dtype) * (value - past))
        self.updates.assign(self.updates + 1)

    def values(self) -> list[tuple[keras.Variable, Any]]:
        """List of `(variable, average)`, or its value before any update."""
        begun = ops.convert_to_tensor(self.updates) > 0
        return [
            (v, ops.where(begun, ops.convert_to_tensor(a), v.value))
            for v, a in zip(self._followed(), self.averages, strict=True)
        ]


@contextlib.contextmanager
def averaged(blocks: Iterable[Any]) -> Iterator[None]:
    """Context in which weights have their moving averages as values.

    Args:
        blocks: list of objects with `variables` and `averages()`, pairs of a
            variable and its average.
    """
    blocks = list(blocks)
    averages = {id(v): value for b in blocks for v, value in b.averages()}
    if not averages:
        yield
        return
    # The mapping holds all variables, since an inner scope hides the values of
    # an outer one.
    mapping = [
        (v, averages.get(id(v), v.value)) for b in blocks for v in b.variables
    ]
    with keras.StatelessScope(state_mapping=mapping):
        yield
