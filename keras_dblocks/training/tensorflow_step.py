"""Gradient step on TensorFlow: one traced function per block.

The block is chosen on the host; a choice inside a `tf.function` would be
frozen when it is traced.
"""

import keras
import tensorflow as tf


def make_train_function(model):
    """The function Keras's TensorFlow trainer calls with an iterator."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`fit` of the whole model trains on one device on TensorFlow. "
            f"Received: {strategy.num_replicas_in_sync} replicas. "
            "Train `model.block(i)`, an ordinary Keras model, or use JAX."
        )
    if model.offload:
        raise ValueError(
            f"`offload` needs JAX or PyTorch. Received: {model.offload!r} on "
            "TensorFlow. Leave it out, or train `model.block(i)` alone."
        )
    steps = {}

    def train_function(iterator):
        logs = None
        for _ in range(model.steps_per_execution):
            try:
                data = next(iterator)
            except StopIteration:
                if logs is None:
                    raise
                break
            model.check_batch(data)
            index = model.next_block(model.training_step)
            if index not in steps:
                steps[index] = make_block_step(model, index)
            logs = model.merge_logs(steps[index](data))
        return logs

    return train_function


def make_block_step(model, index):
    """The traced step of one block, a function of a batch."""
    optimizer = model.block_optimizer(index)
    variables = model.blocks[index].trainable_variables

    def step(data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        handed = model.hand_over(index, x, y)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            loss = model.training_loss(index, x, y, sample_weight, handed)
        grads = tape.gradient(loss, [v.value for v in variables])
        # An embedding's are sparse, which `global_clipnorm` cannot scale.
        grads = [g if g is None else tf.convert_to_tensor(g) for g in grads]
        optimizer.apply(grads, variables)
        return model.track_loss(index, loss, x)

    if not model.run_eagerly:
        step = tf.function(
            step, reduce_retracing=True, jit_compile=model.jit_compile
        )
    return model._autoconvert_optionals(step)
