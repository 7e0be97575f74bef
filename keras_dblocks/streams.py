"""Random draws that are pure functions of (seed, purpose, index).

A purpose is a name such as `"noise"`. The key of a stream is hashed from seed,
purpose and block by numpy's `SeedSequence`. Every draw is hashed again from
the key and its own counters, which are step, row and element. So no two
purposes, blocks, seeds, steps or rows share random numbers.

Tensors are drawn by Threefry-2x32, a counter-based generator that is computed
with Keras operations. It gives the same numbers on JAX, TensorFlow and PyTorch
and on every device, and has no state to save. What is drawn on the host (block
order, data order, fixed tables) comes from numpy's Philox under a key that is
hashed the same way.

See docs/method.md#random-draws.
"""

import numpy as np
from keras import ops

from keras_dblocks import compat

# Rotations of Threefry-2x32 (Salmon et al. 2011, Table 2) and the parity
# constant of its key schedule.
ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
PARITY = 0x1BD11BDA


def entropy(seed, purpose, *index):
    """An integer that identifies a stream and no other one."""
    text = "/".join(str(part) for part in (seed, purpose, *index))
    return int.from_bytes(text.encode(), "little")


def generator(seed, purpose, *index):
    """numpy `Generator` (Philox) of a stream, for draws on the host.

    Example:

    ```python
    streams.generator(0, "data_order", 5).permutation(10)
    ```
    """
    sequence = np.random.SeedSequence(entropy(seed, purpose, *index))
    return np.random.Generator(np.random.Philox(sequence))


def words(seed, purpose, *index):
    """The key of a stream, two hashed 32-bit words `(2,)` uint32."""
    sequence = np.random.SeedSequence(entropy(seed, purpose, *index))
    return sequence.generate_state(2)


class Stream:
    """Draws random tensors, independent for each step and row.

    Args:
        seed: int.
        purpose: str. What the numbers are used for.
        index: ints, for example the number of a block.

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

        It is for compiled functions that take the key as an argument, where
        `key` is `Stream(...).key_array()`.
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
        """List of `per_value` tensors `(B, *shape)` of int32 words."""
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
            rows: int tensor `(B,)`. Number of each row within the call.
            shape: tuple of ints. Shape of one row.
            step: int or int tensor `()`. Number of the draw.

        Returns:
            float32 tensor `(B, *shape)`.
        """
        (bits,) = self._bits(rows, shape, step, 1)
        return _to_unit(bits)

    def normal(self, rows, shape=(), step=0):
        """Standard normal numbers; the arguments are those of `uniform`.

        Box and Muller's transformation is applied to 24-bit uniform numbers,
        so no absolute value exceeds 5.8.
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
    """Evenly spread numbers in [0, 1) that depend on the rows' numbers.

    They are `frac(shift + row / golden ratio)`. For every N the first N rows
    leave no large gap, so levels are stratified over a whole call instead of
    within each batch.

    Args:
        rows: int tensor `(B,)`.
        shift: float32 tensor that broadcasts against `(B,)`, in [0, 1).
    """
    # 32-bit integers keep the fraction, which float32 would lose.
    golden = ops.cast(rows, "int32") * _signed(0x9E3779B9)
    return ops.mod(_to_unit(golden) + shift, 1.0)


def threefry(key, first, second):
    """Threefry-2x32 with 20 rounds.

    Args:
        key: pair of Python ints, or of int32 tensors.
        first, second: int32 tensors of equal shape, the counters.

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
    low = ops.bitwise_right_shift(x, 32 - distance)  # copies the sign bit
    low = ops.bitwise_and(low, (1 << distance) - 1)
    return ops.bitwise_or(ops.bitwise_left_shift(x, distance), low)


def _to_unit(bits):
    """The upper 24 of 32 bits as float32 in [0, 1)."""
    upper = ops.bitwise_and(ops.bitwise_right_shift(bits, 8), 0xFFFFFF)
    return ops.cast(upper, "float32") * 2.0**-24


def _signed(word):
    """The int32 that has the bits of a 32-bit word."""
    return int(np.uint32(word).astype("int32"))


def seed_layers(layers, seed, purpose, *index):
    """Seeds each random generator of the layers (dropout) with its own key.

    Args:
        layers: built Keras layers, whose sublayers are included.
        seed, purpose, index: see `Stream`. The generator's number is appended
            to `index`.
    """
    for number, found in enumerate(compat.seed_generators(layers)):
        compat.reseed(found, words(seed, purpose, *index, number))


def random_states(layers):
    """State variables of the generators that `seed_layers` finds."""
    return [found.state for found in compat.seed_generators(layers)]


def rows_of(batch_size):
    """Numbers `(B,)` of the rows of a call that consists of one batch."""
    return ops.arange(batch_size, dtype="int32")
