"""The block of each training step, as a pure function of (seed, step)."""

import numbers

import numpy as np

from keras_dblocks import streams
from keras_dblocks.checks import check_integer, is_integer


class BlockOrder:
    """Draws the block of a training step.

    Args:
        order: `"uniform"` (the paper's), `"round_robin"`, `"shuffled"` (all
            blocks in a random order, then in another), `"descending"`, an int
            (always that block), or a list of weights, one for each block.
        num_blocks: int.
        seed: int.
        steps_per_visit: int. Consecutive steps that a block is drawn for.
        blocks: list of ints, the blocks that are drawn, or None for all.

    Raises:
        ValueError: for an unknown order, invalid weights, or
            `steps_per_visit` below 1.

    Example:

    ```python
    order = BlockOrder("round_robin", num_blocks=3)
    [order(step) for step in range(4)]      # [0, 1, 2, 0]
    ```
    """

    def __init__(
        self,
        order="uniform",
        num_blocks=1,
        seed=0,
        steps_per_visit=1,
        blocks=None,
    ):
        check_integer("steps_per_visit", steps_per_visit)
        if isinstance(order, np.ndarray):
            order = order.tolist()
        self.order = order
        self.num_blocks = num_blocks
        self.seed = seed
        self.steps_per_visit = steps_per_visit
        self.cumulative = None
        self.blocks = list(range(num_blocks)) if blocks is None else blocks
        if not self.blocks:
            raise ValueError(
                "Training needs something to train. Received: no trainable "
                "variable. Set `trainable = True` for a block or a layer."
            )
        if order == "uniform":
            order = [1.0] * num_blocks
        if isinstance(order, (list, tuple)):
            fit = len(order) == num_blocks and all(
                isinstance(w, numbers.Real) and 0 <= w < np.inf for w in order
            )
            if not fit or not sum(order):
                raise ValueError(
                    "`block_order` weights must be one finite number of at "
                    f"least 0 per block. Received: {self.order} for "
                    f"{num_blocks} blocks. Pass {num_blocks} numbers."
                )
            weights = np.zeros(num_blocks)
            weights[self.blocks] = np.asarray(order, "float64")[self.blocks]
            if not weights.sum():
                raise ValueError(
                    "`block_order` must draw a block that trains. Received: "
                    f"weights {self.order} where blocks {self.blocks} do. "
                    "Give one of them a weight."
                )
            self.cumulative = np.cumsum(weights / weights.sum())
        elif is_integer(order):
            if not 0 <= order < num_blocks:
                raise ValueError(
                    f"`block_order` must name one of blocks 0 to "
                    f"{num_blocks - 1}. Received: {order}. Count from 0."
                )
            if order not in self.blocks:
                raise ValueError(
                    "`block_order` must name a block that trains. Received: "
                    f"{order}, which is frozen. Choose one of {self.blocks}."
                )
        elif order not in ("round_robin", "shuffled", "descending"):
            raise ValueError(
                '`block_order` must be "uniform", "round_robin", "shuffled", '
                '"descending", a block or a list of weights. '
                f"Received: {order!r}. Leave it out for the default."
            )

    def of_blocks(self, blocks):
        """The same order among some of the blocks (list of ints)."""
        config = self.num_blocks, self.seed, self.steps_per_visit
        return BlockOrder(self.order, *config, blocks)

    def __call__(self, step):
        """Block of training step `step` (int, from 0)."""
        visit = step // self.steps_per_visit
        if self.order in ("round_robin", "shuffled", "descending"):
            turn, place = divmod(visit, len(self.blocks))
            return self._round(turn)[place]
        if self.cumulative is None:
            return int(self.order)
        # The draw needs no saved state and is the same on every backend.
        draw = streams.generator(self.seed, "block_order", visit).random()
        block = np.searchsorted(self.cumulative, draw, side="right")
        return int(min(block, self.num_blocks - 1))

    def _round(self, turn):
        """Blocks in the order of a round, in which each comes once."""
        if self.order == "descending":
            return self.blocks[::-1]
        if self.order == "round_robin":
            return self.blocks
        draws = streams.generator(self.seed, "block_order_round", turn)
        return draws.permutation(self.blocks).tolist()
