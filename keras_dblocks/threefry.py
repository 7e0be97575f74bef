"""Threefry-2x32, a counter-based random number generator."""

import numpy as np
from keras import ops

from keras_dblocks.tracing import traced_once

# Rotations of Threefry-2x32 (Salmon et al. 2011, Table 2) and the parity
# constant of its key schedule.
ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
PARITY = 0x1BD11BDA


def threefry(key, first, second):
    """Threefry-2x32 with 20 rounds, a keyed hash of two 32-bit words.

    Args:
        key: pair of int32 tensors.
        first, second: int32 tensors of equal shape, the counters.

    Returns:
        Two int32 tensors that hold 32 random bits each.

    References:
     - [Parallel random numbers: as easy as 1, 2, 3](
       https://doi.org/10.1145/2063384.2063405), Section 3.4
    """
    last = ops.bitwise_xor(ops.bitwise_xor(*key), signed(PARITY))
    schedule = [*key, last]
    x, y = first + schedule[0], second + schedule[1]
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            x = x + y
            y = ops.bitwise_xor(_rotate(y, distance), x)
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + (group + 1)
    return x, y


@traced_once(1, 1, 1, 1)
def random_words(key, steps, rows, elements):
    """Two random words for each element of each row.

    Every row has a key of its own, hashed from the stream's key, the step and
    the row's number.

    Args:
        key: int32 tensor `(2,)`.
        steps, rows: int32 tensors `(B,)`, the numbers of step and row.
        elements: int32 tensor `(N,)`, the numbers of the elements.

    Returns:
        Two int32 tensors `(B, N)`.
    """
    first, second = threefry((key[0], key[1]), steps, rows)
    rows_key = ops.expand_dims(first, 1), ops.expand_dims(second, 1)
    elements = ops.expand_dims(elements, 0) + ops.expand_dims(0 * rows, 1)
    return threefry(rows_key, elements, ops.zeros_like(elements))


def signed(word):
    """The int32 that has the bits of a 32-bit word."""
    return int(np.uint32(word).astype("int32"))


def _rotate(x, distance):
    low = ops.bitwise_right_shift(x, 32 - distance)  # copies the sign bit
    low = ops.bitwise_and(low, (1 << distance) - 1)
    return ops.bitwise_or(ops.bitwise_left_shift(x, distance), low)
