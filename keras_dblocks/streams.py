"""Every random draw is a pure function of (seed, purpose, index).

A purpose is a name such as `"noise"`, an index is a block, a step, a row. The
key of a stream is hashed from all three by numpy's `SeedSequence`, and every
single draw is hashed again from the key and its own counters, so no two
purposes, blocks, seeds, steps or rows share random numbers.

Tensors are drawn by Threefry-2x32, a counter-based generator, computed with
Keras operations: the same numbers on JAX, TensorFlow and PyTorch, on every
device, with no state to save. What is drawn on the host (block order, data
order, fixed tables) comes from numpy's Philox under a key hashed the same way.

See docs/method.md#random-draws.
"""

import numpy as np
from keras import ops

from keras_dblocks import compat

# Threefry-2x32 (Salmon et al. 2011, Table 2), key schedule's parity constant.
ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
PARITY = 0x1BD11BDA


def entropy(seed, purpose, *index):
    """The integer that names a stream; no two streams have the same."""
    text = "/".join(str(part) for part in (seed, purpose, *index))
    return int.from_bytes(text.encode(), "little")


def generator(seed, purpose, *index):
    """numpy `Generator` (Philox) of a stream, for what the host draws.

    Example:

    ```python
    streams.generator(0, "data_order", 5).permutation(10)
    ```
    """
    sequence = np.random.SeedSequence(entropy(seed, purpose, *index))
    return np.random.Generator(np.random.Philox(sequence))


def words(seed, purpose, *index):
    """Two hashed 32-bit words `(2,)` uint32: the key of a stream."""
    sequence = np.random.SeedSequence(entropy(seed, purpose, *index))
    return sequence.generate_state(2)


class Stream:
    """Random tensors, one independent set of numbers for each step and row.

    Args:
        seed: int.
        purpose: str. What the numbers are for.
        index: ints. A block, for example.

    Example:

    ```python
    noise = Stream(0, "noise", 2)
    noise.normal(rows=ops.arange(4), shape=(8,), step=100)  # (4, 8)
    ```
    """

    def __init__(self, seed, purpose, *index):
        self.key = tuple(int(word) for word in words(seed, purpose, *index))

    @classmethod
    def of_key(cls, key):
        """The stream of a key given as int32 tensor or array `(2,)`.

        For compiled functions that take the seed as an argument; `key` is
        `Stream(...).key_array()`.
        """
        stream = cls.__new__(cls)
        if isinstance(key, np.ndarray):
            key = [int(word) & 0xFFFFFFFF for word in key]
        stream.key = (key[0], key[1])
        return stream

    def key_array(self):
        """The key as a numpy array, int32 `(2,)`."""
        return np.array([_signed(word) for word in self.key], "int32")

    def _bits(self, rows, shape, step, per_value):
        """int32 words `(B, *shape)`, `per_value` tensors of them."""
        size = int(np.prod(shape))  # static
        rows = ops.cast(rows, "int32")
        step = ops.zeros_like(rows) + ops.cast(step, "int32")
        first, second = threefry(self.key, step, rows)  # (B,) keys of the rows
        count = size if per_value == 2 else -(-size // 2)
        element = ops.expand_dims(ops.arange(count, dtype="int32"), 0)
        element = element + ops.zeros_like(ops.expand_dims(rows, 1))
        key = ops.expand_dims(first, 1), ops.expand_dims(second, 1)
        found = threefry(key, element, ops.zeros_like(element))  # (B, count)
        if per_value == 2:
            return [ops.reshape(bits, (-1, *shape)) for bits in found]
        both = ops.concatenate(found, 1)[:, :size]
        return [ops.reshape(both, (-1, *shape))]

    def uniform(self, rows, shape=(), step=0):
        """Uniform numbers in [0, 1).

        Args:
            rows: int tensor `(B,)`. Number of each row in its call.
            shape: tuple of ints. Shape of one row.
            step: int or int tensor `()`. Number of the draw.

        Returns:
            float32 tensor `(B, *shape)`.
        """
        (bits,) = self._bits(rows, shape, step, 1)
        return _to_unit(bits)

    def normal(self, rows, shape=(), step=0):
        """Standard normal numbers, arguments as of `uniform`.

        Box and Muller's transformation, of 24-bit uniform numbers: no value
        is farther out than 5.8.
        """
        size = int(np.prod(shape))
        half = -(-size // 2)
        first, second = self._bits(rows, (half,), step, 2)
        radius = ops.sqrt(-2.0 * ops.log(_to_unit(first) + 2.0**-24))
        angle = (2 * np.pi) * _to_unit(second)
        both = [radius * ops.cos(angle), radius * ops.sin(angle)]
        both = ops.concatenate(both, 1)[:, :size]
        return ops.reshape(both, (-1, *shape))


def spread(rows, shift):
    """Evenly spread numbers in [0, 1), whatever rows there are.

    `frac(shift + row / golden ratio)`: the first N rows of any N leave no
    large gap, so that levels are stratified over a whole call and not within
    its batches.

    Args:
        rows: int tensor `(B,)`.
        shift: float32 tensor that broadcasts against `(B,)`, in [0, 1).
    """
    # In 32-bit integers, where float32 would lose the fraction.
    golden = ops.cast(rows, "int32") * _signed(0x9E3779B9)
    return ops.mod(_to_unit(golden) + shift, 1.0)


def threefry(key, first, second):
    """Threefry-2x32 with 20 rounds.

    Args:
        key: pair of Python ints, or of int32 tensors.
        first, second: int32 tensors of one shape, the counter.

    Returns:
        Two int32 tensors that hold 32 random bits each.

    References:
     - [Parallel random numbers: as easy as 1, 2, 3](
       https://doi.org/10.1145/2063384.2063405), Section 3.4
    """
    if isinstance(key[0], int):
        schedule = [*key, key[0] ^ key[1] ^ PARITY]
        schedule = [_signed(word) for word in schedule]
    else:
        last = ops.bitwise_xor(ops.bitwise_xor(*key), _signed(PARITY))
        schedule = [*key, last]
    x, y = first + schedule[0], second + schedule[1]
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            x = x + y
            y = ops.bitwise_xor(_rotate(y, distance), x)
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + (group + 1)
    return x, y


def _rotate(x, distance):
    low = ops.bitwise_right_shift(x, 32 - distance)  # repeats the sign
    low = ops.bitwise_and(low, (1 << distance) - 1)
    return ops.bitwise_or(ops.bitwise_left_shift(x, distance), low)


def _to_unit(bits):
    """The upper 24 of 32 bits, as float32 in [0, 1)."""
    upper = ops.bitwise_and(ops.bitwise_right_shift(bits, 8), 0xFFFFFF)
    return ops.cast(upper, "float32") * 2.0**-24


def _signed(word):
    """A 32-bit word as the int32 of the same bits."""
    return int(np.uint32(word).astype("int32"))


def seed_layers(layers, seed, purpose, *index):
    """Gives the random generators of layers (dropout) streams of their own.

    Args:
        layers: built Keras layers; what they hold is found.
        seed, purpose, index: see `Stream`; the number of the generator is
            appended.
    """
    for number, found in enumerate(compat.seed_generators(layers)):
        compat.reseed(found, words(seed, purpose, *index, number))


def random_states(layers):
    """State variables of the generators that `seed_layers` finds."""
    return [found.state for found in compat.seed_generators(layers)]


def rows_of(batch_size):
    """Numbers `(B,)` of the rows of a call that is one batch."""
    return ops.arange(batch_size, dtype="int32")
