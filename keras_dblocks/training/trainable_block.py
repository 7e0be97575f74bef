"""What is trained: the contract between training and a block."""

import abc

from keras_dblocks.contracts import Contract


class TrainableBlock(Contract):
    """Variables, the loss of a batch, and what is handed over.

    Everything in this package trains objects of this class and asks nothing
    else of them. A block is usually also a `keras.Model`, which gives the
    lists of variables. Called by the step of the backend in use
    (`jax_step`, `tensorflow_step`, `torch_step`), in this order:

    1. `begin_hand_over` of the block that trains, without gradient;
    2. `pass_on` of every earlier block, without gradient;
    3. `training_loss` of the block that trains, whose gradient is taken.

    All three run inside a compiled function: what differs between blocks of
    equal layers and is no variable must come in as `constants`, so that such
    blocks share one program.

    Attributes:
        variables: list of all variables the methods read.
        trainable_variables: list of those that gradients are taken of.
        non_trainable_variables: list of those a step may move besides.
    """

    @abc.abstractmethod
    def loss_constants(self):
        """Numbers that `training_loss` needs: a tree of numpy arrays."""

    @abc.abstractmethod
    def hand_over_constants(self):
        """Numbers that `begin_hand_over` and `pass_on` need, likewise."""

    @abc.abstractmethod
    def training_loss(self, data, handed, constants):
        """Loss of a batch.

        Args:
            data: tuple `(x, y, sample_weight)`, as `fit` unpacked it.
            handed: what `begin_hand_over` and the earlier blocks' `pass_on`
                made, for the first rows of the batch; or None.
            constants: `loss_constants()`, as tensors.

        Returns:
            float32 scalar. Random draws move non-trainable variables.
        """

    @abc.abstractmethod
    def begin_hand_over(self, data, share, constants, rows=None):
        """What the first block is handed, for a share of a batch.

        Args:
            data: as in `training_loss`.
            share: float in (0, 1], of the rows.
            constants: `hand_over_constants()` of the first block, as tensors.
            rows: int32 tensor `(B,)`, the rows' numbers, in validation: what
                is drawn follows from them alone. None in training.

        Returns:
            Pair of the state to be passed on (tree of tensors) and what every
            earlier block reads besides (tree of tensors, or None); or None
            for the pair if the batch is too small for the share.
        """

    @abc.abstractmethod
    def pass_on(self, state, context, constants):
        """The state after this block, which is read and not written.

        Args:
            state, context: the pair of `begin_hand_over`, the state as the
                block before left it.
            constants: `hand_over_constants()`, as tensors.

        Returns:
            Tree of tensors like `state`.
        """

    @abc.abstractmethod
    def batch_size(self, data):
        """Number of rows of a batch (int, or a tensor where unknown)."""


def run_hand_over(blocks, index, begin, pass_on):
    """The loop over earlier blocks, the same on every backend.

    Args:
        blocks: list of `TrainableBlock`.
        index: int. The block that is going to train.
        begin: function of no arguments, calls `begin_hand_over`.
        pass_on: function of an earlier block, the state and the context.

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
