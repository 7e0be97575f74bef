"""Computes layers again in the backward pass to keep fewer activations."""

import contextlib
import functools

import keras
from keras import ops, tree


def rematerialized(function, layer=None, changes=True):
    """`function`, of which the backward pass keeps only the inputs.

    All variables are passed as arguments, since on TensorFlow `keras.remat`
    gives no gradient to variables that a function reads from outside. The
    states of random generators are passed too, so that both passes draw the
    same numbers.

    Args:
        function: built `keras.layers.Layer`, or a function that reads
            variables only by calling sublayers of `layer`, because on PyTorch
            the backward pass runs outside of the layer's dtype scope.
        layer: `keras.layers.Layer` that holds these variables. Defaults to
            `function`.
        changes: bool. Whether a call may change variables that are not
            trainable, which it cannot inside a loop.

    Returns:
        Function of the same arguments.
    """
    variables = (layer or function).variables

    def call(*args, **kwargs):
        given = [*args, *kwargs.values()]
        leaves = [leaf for value in given for leaf in _flat(value)]
        places = [i for i, leaf in enumerate(leaves) if ops.is_tensor(leaf)]

        def pure(*tensors):
            mapping = list(zip(variables, tensors[len(places) :], strict=True))
            rest = iter(_replaced(leaves, places, tensors[: len(places)]))
            present = [_packed_like(value, rest) for value in given]
            keywords = dict(zip(kwargs, present[len(args) :], strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = function(*present[: len(args)], **keywords)
            return result, [scope.get_current_value(v) for v in updated]

        # Variables that a call may update are passed as copies, since
        # PyTorch refuses to compute again from a tensor that has changed.
        updated = [v for v in variables if changes and not v.trainable]
        copied = {id(v) for v in updated}
        values = [
            ops.copy(v) if id(v) in copied else as_tensor(v) for v in variables
        ]
        tensors = [leaves[place] for place in places]
        result, new_values = keras.remat(pure)(*tensors, *values)
        for variable, value in zip(updated, new_values, strict=True):
            variable.assign(value)
        return result

    return call


@contextlib.contextmanager
def rematerialized_calls(layers):
    """Context in which calls of the (built) layers are rematerialized."""

    def wrapped(layer, call):
        # A part of the layer that is called below is called as it is.
        return lambda *args, **kwargs: rematerialized(call, layer)(
            *args, **kwargs
        )

    for layer in layers:
        layer.__dict__["call"] = wrapped(layer, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]


def recomputed_in_training(call):
    """Decorates the `call` of a layer that has a `recompute` attribute.

    If `recompute` is True, a training step keeps only the inputs of the call
    and computes it again in the backward pass. The call may read variables
    only by calling sublayers.
    """

    @functools.wraps(call)
    def recomputed_call(self, *args, training=None, **kwargs):
        function = functools.partial(call, self, training=training)
        if training and self.recompute:
            function = rematerialized(function, self)
        return function(*args, **kwargs)

    return recomputed_call


def as_tensor(variable):
    """A variable's value as a tensor, to be passed to `keras.remat`.

    On eager TensorFlow a variable itself would count twice in the gradient,
    the second time as an argument of the function.
    """
    return ops.cast(ops.convert_to_tensor(variable), variable.dtype)


def _flat(value):
    # A single tensor is not flattened, since on PyTorch `tree` keeps what it
    # flattens until garbage is collected.
    return tree.flatten(value) if tree.is_nested(value) else [value]


def _packed_like(value, leaves):
    """Nests the next items of the iterator `leaves` like `value`."""
    if not tree.is_nested(value):
        return next(leaves)
    return tree.pack_sequence_as(value, [next(leaves) for _ in _flat(value)])


def _replaced(leaves, places, tensors):
    leaves = list(leaves)
    for place, tensor in zip(places, tensors, strict=True):
        leaves[place] = tensor
    return leaves
