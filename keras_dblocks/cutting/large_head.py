"""The loss of a language model without all of its logits at once.

Keras Hub's language models end in one layer that makes the logits of a whole
vocabulary. If nothing comes after it, it can be left out of the network's call
and be called with the loss, a few positions at a time.
"""

import contextlib

import keras
from keras import ops

from keras_dblocks import compat
from keras_dblocks.chunks import in_chunks, number_of_chunks
from keras_dblocks.layers.context import accepts
from keras_dblocks.rematerialization import replaced


class LargeHead:
    """The last layer of a functional model, which maps states to logits.

    Args:
        layer: that layer.
        arguments: dict of what the model calls it with beside the states.
        vocabulary_size: int.
    """

    def __init__(self, layer, arguments, vocabulary_size):
        self.layer = layer
        self.arguments = arguments
        self.vocabulary_size = vocabulary_size

    def chunks(self, y):
        """Number of chunks for the logits of tokens `(B, T)` (int)."""
        if len(y.shape) != 2:
            return 1
        batch, length = y.shape
        shape = length, self.vocabulary_size
        return number_of_chunks(self.layer, shape, batch)

    @contextlib.contextmanager
    def left_out(self):
        """Context in which a call of the model returns the states."""
        layer, wanted = self.layer, self.arguments
        names = [n for n in ("call", "quantized_call") if hasattr(layer, n)]

        def passing(call):
            def passed(states, *args, **kwargs):
                if wanted.items() <= kwargs.items():
                    return states
                return call(states, *args, **kwargs)

            return passed

        with contextlib.ExitStack() as stack:
            for name in names:
                function = passing(getattr(layer, name))
                stack.enter_context(replaced(layer, name, function))
            yield

    def loss_and_hits(self, loss, y, states, sample_weight):
        """The loss of a batch, and which tokens were the likeliest.

        Args:
            loss: `keras.losses.SparseCategoricalCrossentropy`.
            y: int tensor `(B, T)`.
            states: tensor `(B, T, D)`.
            sample_weight: tensor or None, as Keras's losses take it.

        Returns:
            Tuple of the loss, a scalar; targets `(B, T)`; and predictions
            `(B, T, 2)` of two classes that have the accuracy of the logits.
        """
        y = ops.cast(y, "int32")

        def of_some(states, y):
            logits = self.layer(states, **self.arguments)
            logits = ops.cast(logits, loss.dtype)  # as Keras does first
            entropies = ops.cast(loss.call(y, logits), "float32")
            likeliest = ops.cast(ops.argmax(logits, -1), y.dtype)
            hits = ops.cast(ops.equal(likeliest, y), "float32")
            return ops.stack([entropies, hits], -1)

        count = self.chunks(y)
        found = in_chunks(of_some, count, [states, y], trained=self.layer)
        whole = Given(reduction=loss.reduction)(y, found[..., 0], sample_weight)
        # Of two classes the first is right, and is chosen in a hit.
        hits = ops.stop_gradient(found[..., 1])
        return whole, ops.zeros_like(y), ops.stack([hits, 1.0 - hits], -1)


def serves(loss, loss_weights, metrics, weighted_metrics):
    """Whether `LargeHead` computes what these arguments of `compile` say."""
    accuracy = keras.metrics.SparseCategoricalAccuracy
    given = keras.tree.flatten([metrics or [], weighted_metrics or []])
    return (
        type(loss) is keras.losses.SparseCategoricalCrossentropy
        and loss.get_config().get("ignore_class") is None
        and loss_weights is None
        and all(type(metric) is accuracy for metric in given)
    )


def large_head(model):
    """`LargeHead` of a model that ends in one, or None."""
    last = compat.last_operation(model)
    if last is None:
        return None
    layer, arguments, shape = last
    if not isinstance(layer, keras.layers.Layer) or len(shape) != 3:
        return None
    if isinstance(layer, keras.Model) or not layer.variables:
        return None
    own = not type(layer).__module__.startswith("keras.")
    if own and accepts(layer, "training") or "training" in arguments:
        return None  # what it does may depend on it
    if compat.changes_in_calls(layer):
        return None
    return LargeHead(layer, arguments, shape[-1])


class Given(keras.losses.Loss):
    """Reduces losses that were computed before, as Keras reduces them."""

    def call(self, y_true, y_pred):
        return y_pred
