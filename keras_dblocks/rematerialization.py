"""Computing a layer again in the backward pass instead of keeping it."""

import keras
from keras import ops, tree


def rematerialized(layer):
    """`layer` as a function of which only inputs are kept for gradients.

    All it reads is passed to it, since `keras.remat` gives no gradient to
    what a function merely sees on TensorFlow; and what it draws is the same
    both times, since the state of its random generators is passed too.

    Args:
        layer: built `keras.layers.Layer` from a state to a state.

    Returns:
        Function of the state and of keywords of the layer's `call`.
    """
    variables = layer.variables
    moving = [v for v in variables if not v.trainable]

    def call(state, **context):
        tensors = {k: v for k, v in context.items() if not _is_plain(v)}
        plain = {k: v for k, v in context.items() if k not in tensors}
        leaves = tree.flatten(tensors)

        def pure(state, *arguments):
            count = len(leaves)
            rest = tree.pack_sequence_as(tensors, arguments[:count])
            known = list(zip(variables, arguments[count:], strict=True))
            with keras.StatelessScope(state_mapping=known) as scope:
                result = layer(state, **plain, **rest)
            return result, [scope.get_current_value(v) for v in moving]

        # Copies of what moves, since PyTorch refuses a second look.
        values = [
            as_tensor(v, v.dtype) if v.trainable else ops.copy(v)
            for v in variables
        ]
        result, moved = keras.remat(pure)(state, *leaves, *values)
        for variable, value in zip(moving, moved, strict=True):
            variable.assign(value)
        return result

    return call


def as_tensor(variable, dtype):
    """A variable's value, to be passed to what is computed again.

    A tensor also on TensorFlow run eagerly: there a variable would be counted
    twice in the gradient, once as what the function was called with.
    """
    return ops.cast(ops.convert_to_tensor(variable), dtype)


def _is_plain(value):
    return value is None or isinstance(value, (bool, int, float))
