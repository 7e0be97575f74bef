"""Grids of noise levels that a sampler visits, highest first."""

import numpy as np

from keras_dblocks.diffusion.partition import Partition

GRIDS = ("upper_edges", "equal_mass", "karras")


def noise_levels(
    partition: Partition,
    num_steps: int,
    grid: str = "upper_edges",
    rho: float = 7.0,
) -> np.ndarray:
    """Descending noise levels, at each of which the denoiser is called once.

    Args:
        partition: `keras_dblocks.Partition`.
        num_steps: int. Number of calls.
        grid: `"upper_edges"` starts each block at the upper edge of its range
            and splits the block's steps by equal probability;
            `"equal_mass"` is the paper's grid, in equal steps of probability
            that include both ends of the range; `"karras"` is EDM's grid.
        rho: float. Exponent of the Karras grid. Defaults to `7`.

    Returns:
        float64 array `(num_steps,)`.

    Raises:
        ValueError: for an unknown grid, or for `"upper_edges"` with fewer
            steps than blocks.

    Example:

    ```python
    partition = Partition(LogNormalNoise(), num_layers=6, num_blocks=3)
    noise_levels(partition, 3)  # array([80., 0.505, 0.18])
    ```
    """
    if grid not in GRIDS:
        raise ValueError(
            f"`grid` must be one of {GRIDS}. "
            f'Received: grid={grid!r}. Use "upper_edges".'
        )
    if not isinstance(num_steps, (int, np.integer)) or num_steps < 1:
        raise ValueError(
            "`num_steps` must be a whole number, at least 1. "
            f"Received: num_steps={num_steps!r}. "
            f"Use {partition.num_blocks}, one step per block, or more."
        )
    noise = partition.noise
    if grid == "equal_mass":
        return noise.quantile(np.linspace(1.0, 0.0, num_steps))
    if grid == "karras":
        low, high = noise.minimum ** (1 / rho), noise.maximum ** (1 / rho)
        return (high + np.linspace(0, 1, num_steps) * (low - high)) ** rho
    blocks = partition.num_blocks
    if num_steps < blocks:
        raise ValueError(
            '`grid="upper_edges"` calls every block at least once. '
            f"Received: num_steps={num_steps} for {blocks} blocks. "
            f"Use at least {blocks} steps."
        )
    levels: list[float] = []
    for block in range(blocks):
        steps = num_steps // blocks + (block < num_steps % blocks)
        low, high = partition.probability_range(block, overlap=False)
        levels.extend(noise.quantile(np.linspace(high, low, steps + 1)[:-1]))
    return np.array(levels)
