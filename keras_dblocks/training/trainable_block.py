"""The contract between the training steps and a block."""

import abc
from typing import Any

import keras

from keras_dblocks.contracts import Contract


class TrainableBlock(Contract):
    """A block's variables, its loss of a batch, and its hand-over.

    Everything in this package trains objects of this class and uses nothing
    else of them. A block is usually also a `keras.Model`, which has the lists
    of variables. The step of the backend in use (`jax_step`,
    `tensorflow_step`, `torch_step`) calls, in this order:

    1. `begin_hand_over` of the block that trains, without gradient;
    2. `pass_on` of every earlier block, without gradient;
    3. `training_loss` of the block that trains, whose gradient is taken.

    All three run inside a compiled function. Whatever differs between blocks
    with equal layers and is not a variable must be passed as `constants`, so
    that such blocks share one program.

    Attributes:
        variables: list of all variables that the methods read. Those that are
            in neither of the lists below are never changed.
        trainable_variables: list of the variables with gradients.
        non_trainable_variables: list of other variables a step may change.
    """

    @abc.abstractmethod
    def loss_constants(self, as_only_block: bool = False) -> Any:
        """Numbers that `training_loss` needs: a tree of numpy arrays.

        Args:
            as_only_block: bool. True asks for those of a block that learns
                the whole task, as if there was no other.
        """

    @abc.abstractmethod
    def hand_over_constants(self) -> Any:
        """Numbers that `begin_hand_over` and `pass_on` need, a similar tree."""

    @abc.abstractmethod
    def training_loss(self, data: tuple, handed: Any, constants: Any) -> Any:
        """Loss of a batch.

        Args:
            data: tuple `(x, y, sample_weight)` of a batch of `fit`.
            handed: state that `begin_hand_over` and the earlier blocks'
                `pass_on` made for the first rows of the batch, or None.
            constants: `loss_constants()`, as tensors.

        Returns:
            float32 scalar. Random draws may change non-trainable variables.
        """

    @abc.abstractmethod
    def begin_hand_over(
        self, data: tuple, share: float, constants: Any, rows: Any = None
    ) -> tuple[Any, Any] | None:
        """State that the first block is handed, for a share of a batch.

        Args:
            data: as in `training_loss`.
            share: float in (0, 1], the share of the rows.
            constants: `hand_over_constants()` of the first block, as tensors.
            rows: int32 tensor `(B,)`, in validation the rows' numbers, on
                which alone the draws depend. None in training.

        Returns:
            Pair of the state to be passed on (tree of tensors) and the context
            that every earlier block also reads (tree of tensors, or None).
            None instead of the pair if the batch is too small for the share.
        """

    @abc.abstractmethod
    def pass_on(self, state: Any, context: Any, constants: Any) -> Any:
        """The state after this block, whose variables must not change.

        Args:
            state, context: the pair of `begin_hand_over`, where the state is
                what the block before returned.
            constants: `hand_over_constants()`, as tensors.

        Returns:
            Tree of tensors like `state`.
        """

    def hand_over_is_drawn(self) -> bool:
        """Whether `begin_hand_over` begins with random numbers (bool)."""
        return False

    @abc.abstractmethod
    def copied_variables(self) -> list[keras.Variable]:
        """Variables whose values a block that starts as a copy of it gets.

        They stand in the same order in every block (list).
        """

    @abc.abstractmethod
    def was_trained(self) -> bool:
        """Whether the block has taken a training step (bool)."""

    def results(self) -> dict[str, Any]:
        """Metrics that `training_loss` has updated, for the logs, by name."""
        return {}

    @abc.abstractmethod
    def batch_weight(self, data: tuple) -> Any:
        """How much a batch counts in a mean over batches: its rows.

        It is a number, or a tensor where the number is unknown.
        """


def run_hand_over(blocks, index, begin, pass_on):
    """Runs the earlier blocks one by one, on every backend.

    Args:
        blocks: list of `TrainableBlock`.
        index: int. The block that is going to train.
        begin: function of no arguments that calls `begin_hand_over`.
        pass_on: function of an earlier block, the state and the context,
            which calls the block's `pass_on`.

    Returns:
        The state that block `index` trains on, or None.
    """
    started = begin()
    if started is None:
        return None
    state, context = started
    for earlier in blocks[:index]:
        state = pass_on(earlier, state, context)
    return state


def hand_over(blocks, index, data, share, rows=None):
    """`run_hand_over` where nothing is compiled apart.

    Args:
        blocks: list of `TrainableBlock`.
        index: int. The block that is going to train.
        data, share, rows: see `TrainableBlock.begin_hand_over`; a share of 0
            hands nothing over.

    Returns:
        The state that block `index` trains on, or None.
    """
    if not share:
        return None
    first = blocks[0].hand_over_constants()
    return run_hand_over(
        blocks,
        index,
        lambda: blocks[index].begin_hand_over(data, share, first, rows),
        lambda block, *state: block.pass_on(
            *state, block.hand_over_constants()
        ),
    )
