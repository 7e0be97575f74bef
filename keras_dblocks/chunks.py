"""Large predictions, computed a chunk of positions at a time.

A language model's logits `(B, T, V)` are larger than all else in a step once
the vocabulary has tens of thousands of tokens, and of a block's step they are
much even with a few hundred, since each block has a head. Nobody needs them at
once: a chunk of positions becomes losses, or the estimate that is handed over,
before the next one is computed, and the backward pass computes it again.
"""

import math

from keras import ops

from keras_dblocks import compat
from keras_dblocks.layers.context import accepts
from keras_dblocks.rematerialization import rematerialized

CHUNK = 2**22  # most numbers of a prediction in one chunk, 16 MiB in float32
LARGE = 2**18  # from which on a prediction is computed in chunks
FEWEST = 4  # chunks of it, so that one is little beside the rest of a step
UNKNOWN_BATCH = 32  # taken for the batch where it is known in the step alone


def number_of_chunks(head, shape, batch):
    """Chunks that a prediction is computed in, at most one a position (int).

    Args:
        head: layer that makes it. It gets all positions at once if it reads
            the whole signal or the condition, or draws or counts something.
        shape: shape of a prediction `(T, ...)`, without the batch. With an
            unknown length all positions are computed at once.
        batch: int, or a tensor where it is unknown.
    """
    if len(shape) < 2 or None in shape:  # on TensorFlow a step may know it
        return 1
    size = batch if isinstance(batch, int) else UNKNOWN_BATCH
    size *= math.prod(shape)
    reads_all = accepts(head, "condition") or accepts(head, "signal")
    if size < LARGE or reads_all or compat.changes_in_calls(head):
        return 1
    return min(max(-(-size // CHUNK), FEWEST), shape[0])


def in_chunks(function, count, along, *others, trained=None):
    """`function(*along, *others)`, a slice of positions at a time.

    It is a loop of the backend, since XLA joins the products of one that is
    written out, and then holds them all.

    Args:
        function: function of tensors, whose result has positions along axis 1.
        count: int, number of slices.
        along: list of tensors `(B, T, ...)`, which are sliced along axis 1.
        others: tensors that every call gets as they are, or None.
        trained: layer that the function calls, which is called again in the
            backward pass. None if no gradient is taken.

    Returns:
        Tensor `(B, T, ...)`.
    """
    if trained is not None:
        function = rematerialized(function, trained, changes=False)
    length = along[0].shape[1]
    size = -(-length // count)

    def sliced(tensor):
        """`(B, T, ...)` to `(count, B, size, ...)`, with zeros at the end."""
        rest = tuple(tensor.shape[2:])
        missing = [(0, 0), (0, count * size - length), *[(0, 0) for _ in rest]]
        tensor = ops.reshape(ops.pad(tensor, missing), (-1, count, size, *rest))
        return ops.moveaxis(tensor, 1, 0)

    slices = tuple(sliced(tensor) for tensor in along)
    parts = ops.map(lambda some: function(*some, *others), slices)
    parts = ops.moveaxis(parts, 0, 1)  # (B, count, size, ...)
    whole = ops.reshape(parts, (-1, count * size, *parts.shape[3:]))
    return whole[:, :length]
