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
from keras_dblocks.threefry import random_words, signed


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
        key = words(seed, purpose, *index)
        self.key = key.view("int32")

    @classmethod
    def of_key(cls, key):
        """The stream of a key, int32 tensor or array `(2,)`.

        It is for compiled functions that take the key as an argument, where
        `key` is `Stream(...).key`.
        """
        stream = cls.__new__(cls)
        stream.key = key
        return stream

    def _bits(self, rows, shape, step, per_value):
        """List of `per_value` tensors `(B, *shape)` of int32 words."""
        size = int(np.prod(shape))  # static
        count = size if per_value == 2 else -(-size // 2)
        rows = ops.cast(rows, "int32")
        found = random_words(
            ops.convert_to_tensor(self.key, "int32"),
            ops.zeros_like(rows) + ops.cast(step, "int32"),
            rows,
            ops.arange(count, dtype="int32"),
        )  # (B, count) each
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
    golden = ops.cast(rows, "int32") * signed(0x9E3779B9)
    return ops.mod(_to_unit(golden) + shift, 1.0)


def _to_unit(bits):
    """The upper 24 of 32 bits as float32 in [0, 1)."""
    upper = ops.bitwise_and(ops.bitwise_right_shift(bits, 8), 0xFFFFFF)
    return ops.cast(upper, "float32") * 2.0**-24


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
