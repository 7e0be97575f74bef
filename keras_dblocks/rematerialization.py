"""Computes layers again in the backward pass to keep fewer activations."""

import contextlib
import functools

import keras
from keras import ops, tree

from keras_dblocks import compat


def rematerialized(function, layer=None, changes=True):
    """`function`, of which the backward pass keeps only the inputs.

    All variables are passed as arguments, since on TensorFlow `keras.remat`
    gives no gradient to variables that a function reads from outside. The
    states of random generators are passed too, so that both passes draw the
    same numbers. What Keras keeps beside the arguments of a call (whether the
    model trains, the dtype of its layers, masks) is kept for both passes, and
    losses that layers add in the call are added once.

    Args:
        function: built `keras.layers.Layer`, or a function that reads no
            variables but those of `layer`.
        layer: `keras.layers.Layer` that holds these variables. Defaults to
            `function`.
        changes: bool. Whether a call may change variables and add losses,
            which it cannot inside a loop.

    Returns:
        Function of the same arguments.
    """
    layer = layer or function
    variables = layer.variables

    def call(*args, **kwargs):
        around = compat.CallState()
        given = [*args, *kwargs.values()]
        leaves = [leaf for value in given for leaf in _flat(value)]
        places = [i for i, leaf in enumerate(leaves) if ops.is_tensor(leaf)]

        def pure(*arguments):
            count = len(places), len(places) + len(masked)
            tensors, values = arguments[: count[0]], arguments[count[1] :]
            for i, mask in zip(masked, arguments[slice(*count)], strict=True):
                compat.set_mask(tensors[i], mask)
            rest = iter(_replaced(leaves, places, tensors))
            present = [_packed_like(value, rest) for value in given]
            keywords = dict(zip(kwargs, present[len(args) :], strict=True))
            with around:
                with compat.autocast(None):  # float32 values are to stay so
                    scope = keras.StatelessScope(
                        state_mapping=zip(variables, values, strict=True),
                        collect_losses=True,
                    )
                with scope:
                    result = function(*present[: len(args)], **keywords)
            compat.forget_losses(layer, scope.losses)
            values = [scope.get_current_value(v) for v in updated]
            return result, values, list(scope.losses)

        # Variables that a call may update are passed as copies, since
        # PyTorch refuses to compute again from a tensor that has changed.
        updated = compat.changing_variables(layer) if changes else []
        copied = {id(v) for v in updated}
        with compat.autocast(None):
            values = [
                ops.copy(v) if id(v) in copied else as_tensor(v)
                for v in variables
            ]
        tensors = [leaves[place] for place in places]
        masks = [compat.mask_of(tensor) for tensor in tensors]
        masked = [i for i, mask in enumerate(masks) if mask is not None]
        result, new_values, losses = keras.remat(pure)(
            *tensors, *(masks[i] for i in masked), *values
        )
        for variable, value in zip(updated, new_values, strict=True):
            variable.assign(value)
        if losses and not changes:
            raise ValueError(
                "A layer that is called for some positions at a time cannot "
                f"add losses. Received: {layer.name}, which does. Regularize "
                "its weights instead."
            )
        for loss in losses:
            layer.add_loss(loss)
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

    with contextlib.ExitStack() as stack:
        for layer in layers:
            call = wrapped(layer, layer.call)
            stack.enter_context(replaced(layer, "call", call))
        yield


@contextlib.contextmanager
def replaced(layer, name, function):
    """Context in which a layer has another function in place of a method."""
    own = vars(layer)
    before = {name: own[name]} if name in own else {}
    own[name] = function  # as an attribute, Keras would track it
    try:
        yield
    finally:
        del own[name]
        own.update(before)


def recomputed_in_training(call):
    """Decorates the `call` of a layer that has a `recompute` attribute.

    If `recompute` is True, a training step keeps only the inputs of the call
    and computes it again in the backward pass.
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
