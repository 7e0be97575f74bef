"""Eager gradient step on PyTorch, with the graph of one block at a time."""

import torch

from keras_dblocks import processes
from keras_dblocks.training.block_step import BlockStep, assign, unpack
from keras_dblocks.training.torch_offload_step import offloaded
from keras_dblocks.training.trainable_block import hand_over

__all__ = ["assign", "make_step", "make_train_function"]


def make_train_function(trainer):
    """The function that Keras's torch trainer calls with a list of a batch."""
    if trainer.steps_per_execution > 1:
        raise ValueError(
            "`steps_per_execution` must be 1 on PyTorch. Received: "
            f"{trainer.steps_per_execution}. Leave it out."
        )

    def train_function(data):
        (data,) = data
        return trainer.train_one(data, trainer.training_step)

    return train_function


def make_step(trainer, index, as_only_block=False):
    """The step of one block, a function of a batch."""
    step = TorchStep(trainer, index, as_only_block)
    return offloaded(trainer, index, step) if trainer.offload else step


class TorchStep(BlockStep):
    """A `BlockStep` with eager backpropagation.

    If several processes train the model, each takes the step with the mean of
    all processes' gradients, which are those of the block alone.
    """

    def __init__(self, trainer, index, as_only_block=False):
        super().__init__(trainer, index, as_only_block)
        self.joint = processes.Joint(trainer.name)

    def __call__(self, data, handed=None):
        if handed is None:
            handed = self.hand_over(data)
        data = unpack(data)
        variables = self.block.trainable_variables
        loss = self.loss(data, handed, self.loss_constants)
        for variable in variables:
            variable.value.grad = None  # Keras's own step leaves its gradients
        loss.backward()
        with torch.no_grad():
            gradients = [v.value.grad for v in variables]
            gradients, loss = self.joint(gradients, loss.detach(), data)
            self.optimizer.apply(gradients, variables)
        for variable in variables:
            variable.value.grad = None  # keeps one block's gradients at most
        return self.track(loss.detach(), data)

    @torch.no_grad()
    def hand_over(self, data):
        """State that the earlier blocks hand over to this one, or None."""
        blocks = self.trainer.blocks
        return hand_over(blocks, self.index, unpack(data), self.share)
