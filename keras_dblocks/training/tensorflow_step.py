"""Gradient step on TensorFlow, with one traced function for each block.

The block is chosen on the host, since a choice inside a `tf.function` would
be made only once, when the function is traced.
"""

import tensorflow as tf

from keras_dblocks import compat
from keras_dblocks.training.block_step import (
    BlockStep,
    assign,
    next_batches,
    unpack,
)
from keras_dblocks.training.trainable_block import hand_over

__all__ = ["assign", "make_step", "make_train_function"]


def make_train_function(trainer):
    """The function that Keras's TensorFlow trainer calls with an iterator."""
    if trainer.offload:
        raise ValueError(
            f"`offload` needs JAX or PyTorch. Received: {trainer.offload!r} on "
            "TensorFlow. Leave it out, or train `model.block(i)` alone."
        )

    def train_function(iterator):
        for data in next_batches(iterator, trainer.steps_per_execution):
            logs = trainer.train_one(data, trainer.training_step)
        return logs

    return train_function


def each_batch(dataset, look):
    """The dataset, of which `look` is called with each batch first."""
    spec = dataset.element_spec

    def looked_at(*batch):
        batch = batch if isinstance(spec, tuple) else batch[0]

        def run(*leaves):
            look(tf.nest.pack_sequence_as(batch, leaves))
            return True

        done = tf.py_function(run, tf.nest.flatten(batch), tf.bool)
        with tf.control_dependencies([done]):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.map(looked_at)


def make_step(trainer, index, as_only_block=False):
    """The traced step of one block, a function of a batch."""
    return TracedStep(TensorFlowStep(trainer, index, as_only_block))


class TracedStep:
    """A `TensorFlowStep` whose functions are traced, where they are.

    Args:
        step: `TensorFlowStep`.
    """

    def __init__(self, step):
        self.values = step.values
        self.step = step.traced(lambda arguments: step(*arguments))
        self.hand_over = step.traced(step.hand_over)

    def __call__(self, data, handed=None):
        return self.step((data, handed))


class TensorFlowStep(BlockStep):
    """A `BlockStep` with a gradient tape."""

    def traced(self, function):
        """A function of one argument, as `compile` asks for it."""
        trainer = self.trainer
        if not trainer.run_eagerly:
            function = tf.function(
                function,
                reduce_retracing=True,
                jit_compile=trainer.jit_compile,
                autograph=False,  # converting Python takes longer than tracing
            )
        return compat.accept_optionals(trainer, function)

    def __call__(self, data, handed=None):
        if handed is None:
            handed = self.hand_over(data)
        data = unpack(data)
        variables = self.block.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            loss = self.loss(data, handed, self.loss_constants)
        grads = tape.gradient(loss, [v.value for v in variables])
        # `global_clipnorm` cannot scale the sparse gradients of an embedding.
        grads = [g if g is None else tf.convert_to_tensor(g) for g in grads]
        self.optimizer.apply(grads, variables)
        return self.track(loss, data)

    def hand_over(self, data):
        """State that the earlier blocks hand over to this one, or None."""
        blocks = self.trainer.blocks
        handed = hand_over(blocks, self.index, unpack(data), self.share)
        if handed is None:  # no share, or a batch too small for it
            return None
        return tf.nest.map_structure(tf.stop_gradient, handed)
