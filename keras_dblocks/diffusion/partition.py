"""Which layers and which noise levels belong to which block.

Block 0 holds the first layers and the highest noise. Boundaries ascend, as
the paper writes them, so block `i` owns the interval `num_blocks - 1 - i`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dblocks.checks import check_integer, check_share, is_integer
from keras_dblocks.diffusion.noise import Noise

KINDS = ("equal_probability", "log_uniform", "linear", "mostly_last")
# A level that equals a boundary up to float32 rounding belongs to the interval
# below it. The reference compares float32 with float64 and so skips a block.
TOLERANCE = 1e-5


class Partition:
    """Assigns layers and noise ranges to blocks.

    Args:
        noise: `Noise`, the distribution of noise levels.
        num_layers: int. Residual layers in the whole network.
        num_blocks: int. Blocks that the layers are cut into.
        layers_per_block: list of ints, one per block, summing to
            `num_layers`. Defaults to equal blocks.
        overlap: float, `gamma` of the paper. In training a range is widened
            on each side, as `noise.widen` defines. Defaults to `0.05`.
        kind: `"equal_probability"` (the method), the ablations
            `"log_uniform"` and `"linear"`, or `"mostly_last"`: equal
            probability for all blocks but the last, which has `num_blocks`
            times as much, for blocks of which the last is the best.

    Raises:
        ValueError: when the layers do not divide, or a value is out of range.

    Example:

    ```python
    partition = Partition(LogNormalNoise(), num_layers=12, num_blocks=3)
    partition.boundaries        # array([2.0e-03, 1.8e-01, 5.1e-01, 8.0e+01])
    partition.block_of(0.3)     # 1
    partition.layers_of(0)      # range(0, 4)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 3.3
    """

    def __init__(
        self,
        noise: Noise,
        num_layers: int,
        num_blocks: int,
        layers_per_block: Sequence[int] | None = None,
        overlap: float = 0.05,
        kind: str = "equal_probability",
    ) -> None:
        self.noise = noise
        self.num_layers = num_layers
        self.num_blocks = num_blocks
        self.overlap = overlap
        self.kind = kind
        _check_numbers(num_layers, num_blocks, overlap, kind)
        self.layers_per_block = _layers_per_block(
            num_layers, num_blocks, layers_per_block
        )
        self.boundaries = self._boundaries()

    def _boundaries(self):
        steps = np.linspace(0.0, 1.0, self.num_blocks + 1)
        low, high = self.noise.minimum, self.noise.maximum
        if self.kind == "equal_probability":
            edges = self.noise.quantile(steps)
        elif self.kind == "mostly_last":
            shares = np.ones(self.num_blocks)
            shares[0] = self.num_blocks  # the last block has the lowest levels
            ends = np.append(0.0, np.cumsum(shares) / shares.sum())
            edges = self.noise.quantile(ends)
        elif self.kind == "log_uniform":
            if not low > 0:
                raise ValueError(
                    '`partition="log_uniform"` needs levels above 0. '
                    f"Received: a noise distribution from {low} to {high}. "
                    'Use `partition="linear"` or "equal_probability".'
                )
            edges = np.exp(np.log(low) + steps * np.log(high / low))
        else:
            edges = low + steps * (high - low)
        edges[0], edges[-1] = low, high
        return edges

    def block_of(self, level: Any) -> Any:
        """Block whose half-open range `(low, high]` holds each noise level.

        Args:
            level: float or array of levels.

        Returns:
            int, or int array of the same shape.
        """
        level = np.asarray(level, dtype="float64")
        low, high = self.boundaries[[0, -1]] * (1 - TOLERANCE, 1 + TOLERANCE)
        outside = level[~((low <= level) & (level <= high))]  # NaN too
        if outside.size:
            raise ValueError(
                f"Levels must lie in {self.noise.minimum} to "
                f"{self.noise.maximum}. Received: {outside[0]}. Clip them."
            )
        inner = self.boundaries[1:-1] * (1.0 + TOLERANCE)
        block = self.num_blocks - 1 - np.searchsorted(inner, level, "left")
        return int(block) if block.ndim == 0 else block

    def index_of(self, block: int) -> int:
        """Number of a block that may be counted from the end, as in a list."""
        count = self.num_blocks
        if not is_integer(block) or not -count <= block < count:
            raise ValueError(
                f"Blocks are numbered 0 to {count - 1}. "
                f"Received: {block!r}. Count from 0, the highest noise."
            )
        return range(count)[block]

    def layers_of(self, block: int) -> range:
        """Range of layer indices of a block."""
        block = self.index_of(block)
        first = sum(self.layers_per_block[:block])
        return range(first, first + self.layers_per_block[block])

    def noise_range(
        self, block: int, overlap: bool = True
    ) -> tuple[float, float]:
        """Range `(low, high)` of a block, by default widened for training."""
        k = self.num_blocks - 1 - self.index_of(block)
        low, high = float(self.boundaries[k]), float(self.boundaries[k + 1])
        if overlap and self.num_blocks > 1:
            return self.noise.widen(low, high, self.overlap)
        return low, high

    def probability_range(
        self, block: int, overlap: bool = True
    ) -> tuple[float, float]:
        """`noise_range` as probabilities of the whole distribution."""
        low, high = self.noise.cdf(self.noise_range(block, overlap))
        return float(low), float(high)

    def describe(self) -> dict[str, Any]:
        """What must be equal in two partitions to exchange their blocks."""
        return {
            "layers_per_block": list(self.layers_per_block),
            "boundaries": [float(f"{b:.6g}") for b in self.boundaries],
        }


def _check_numbers(num_layers, num_blocks, overlap, kind):
    check_integer("num_layers", num_layers)
    check_integer("num_blocks", num_blocks)
    if num_blocks > num_layers:
        raise ValueError(
            "A block holds at least one layer, so `num_blocks` must not "
            f"exceed `num_layers`. Received: num_blocks={num_blocks} for "
            f"{num_layers} layers. Use one of {divisors(num_layers)}."
        )
    check_share("overlap", overlap, "The paper uses 0.05 to 0.1.")
    if kind not in KINDS:
        raise ValueError(
            f"`partition` must be one of {KINDS}. "
            f'Received: partition={kind!r}. Use "equal_probability".'
        )


def _layers_per_block(num_layers, num_blocks, layers_per_block):
    if layers_per_block is None:
        if num_layers % num_blocks:
            raise ValueError(
                "`num_blocks` must divide the layers. "
                f"Received: num_blocks={num_blocks} for {num_layers} layers. "
                f"Use one of {divisors(num_layers)}, or pass "
                "`layers_per_block`."
            )
        return [num_layers // num_blocks] * num_blocks
    layers = layers_per_block
    whole = isinstance(layers, (list, tuple)) and all(map(is_integer, layers))
    if not whole or (
        len(layers) != num_blocks
        or sum(layers) != num_layers
        or min(layers) < 1
    ):
        raise ValueError(
            "`layers_per_block` must hold one positive number per block and "
            f"sum to `num_layers`. Received: {layers} for {num_blocks} blocks "
            f"of {num_layers} layers. Change it, or leave it out for equal "
            "blocks."
        )
    return [int(n) for n in layers]


def divisors(number):
    """All divisors of `number`, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]
