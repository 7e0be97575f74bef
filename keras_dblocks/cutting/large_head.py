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

    def chunks(self, states):
        """Number of chunks for states `(B, T, D)` (int)."""
        batch, length = states.shape[:2]
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

        own = {n: vars(layer)[n] for n in names if n in vars(layer)}
        for name in names:
            vars(layer)[name] = passing(getattr(layer, name))
        try:
            yield
        finally:
            for name in names:
                del vars(layer)[name]
            vars(layer).update(own)

    def losses_and_hits(self, loss, y, states):
        """Losses of the tokens, and whether each is the likeliest.

        Args:
            loss: `keras.losses.SparseCategoricalCrossentropy`.
            y: int tensor `(B, T)`.
            states: tensor `(B, T, D)`.

        Returns:
            Pair of float32 tensors `(B, T)`.
        """

        def of_some(states, y):
            logits = self.layer(states, **self.arguments)
            entropies = ops.cast(loss.call(y, logits), "float32")
            likeliest = ops.cast(ops.argmax(logits, -1), y.dtype)
            hits = ops.cast(ops.equal(likeliest, y), "float32")
            return ops.stack([entropies, hits], -1)

        count = self.chunks(states)
        found = in_chunks(of_some, count, [states, y], trained=self.layer)
        return found[..., 0], found[..., 1]


def large_head(model):
    """`LargeHead` of a model that ends in one, or None."""
    last = compat.last_operation(model)
    if last is None:
        return None
    layer, arguments, shape = last
    if not isinstance(layer, keras.layers.Layer) or len(shape) != 3:
        return None
    composite = isinstance(layer, keras.Model) or not layer.variables
    return None if composite else LargeHead(layer, arguments, shape[-1])


class Given(keras.losses.Loss):
    """Reduces losses that were computed before, as Keras reduces them."""

    def call(self, y_true, y_pred):
        return y_pred
