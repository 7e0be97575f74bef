"""A functional model with several inputs as a part of a network."""

from typing import Any

import keras

from keras_dblocks.configuration import Configured
from keras_dblocks.layers.context import NAMES


@keras.saving.register_keras_serializable(package="keras_dblocks")
class FunctionalPart(Configured, keras.layers.Layer):
    """Calls a functional model whose inputs are found by their names.

    An input named `condition`, `noise` or `signal` gets what is meant by that
    in `Network`; the one that is left is the part's own, the noisy signal of
    a stem for example. Of two inputs without such names the first is the
    part's own and the second the condition.

    Args:
        model: functional `keras.Model` with two inputs or more.

    Raises:
        ValueError: if the inputs cannot be told apart.

    Example:

    ```python
    noisy, image = keras.Input((16,)), keras.Input((64,), name="condition")
    x = keras.layers.Dense(32)(noisy) + keras.layers.Dense(32)(image)
    stem = FunctionalPart(keras.Model([noisy, image], x))
    ```
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        names = [tensor.name for tensor in model.inputs]
        self.roles = [name if name in NAMES else None for name in names]
        if self.roles == [None, None]:
            self.roles = [None, "condition"]
        if self.roles.count(None) != 1:
            raise ValueError(
                "All inputs of a functional part but one must be named "
                '"condition", "noise" or "signal". Received: inputs '
                f'{", ".join(names)}. Write keras.Input(..., name="condition").'
            )

    @property
    def context_names(self) -> set[str]:
        """What `call` is to be given by name, see `layers.context`."""
        return {"training", *filter(None, self.roles)}

    def build(self, x_shape, **other_shapes):
        """Does nothing, since a functional model is built."""

    def call(self, x, noise=None, signal=None, condition=None, training=None):
        given = {"noise": noise, "signal": signal, "condition": condition}
        given[None] = x
        inputs = [given[role] for role in self.roles]
        inputs = keras.tree.pack_sequence_as(self.model.input, inputs)
        return self.model(inputs, training=training)

    def compute_output_spec(self, x, **context):
        return self.call(x, **context)
