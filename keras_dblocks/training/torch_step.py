"""Gradient step on PyTorch: eager, one block's graph at a time."""

import keras
import torch

from keras_dblocks.training.torch_offload_step import offloaded


def make_train_function(model):
    """The function Keras's torch trainer calls with a list of one batch."""
    if model.steps_per_execution > 1:
        raise ValueError(
            "`steps_per_execution` must be 1 on PyTorch. Received: "
            f"{model.steps_per_execution}. Leave it out."
        )
    steps = {}

    def train_function(data):
        (data,) = data
        model.check_batch(data)
        index = model.next_block(model.training_step)
        if index not in steps:
            steps[index] = _make_step(model, index)
        return model.merge_logs(steps[index](data))

    return train_function


def _make_step(model, index):
    optimizer = model.block_optimizer(index)
    variables = model.blocks[index].trainable_variables

    def step(data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with torch.no_grad():
            handed = model.hand_over(index, x, y)
        loss = model.training_loss(index, x, y, sample_weight, handed)
        loss.backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)
        for variable in variables:
            variable.value.grad = None  # 1/B of the gradients, no more
        return model.track_loss(index, loss.detach(), x)

    return offloaded(model, index, step) if model.offload else step
