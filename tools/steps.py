"""What the tools share: single training steps, timing, and their output."""

import json
import statistics
import time

import keras
import numpy as np

from keras_dblocks import compat
from keras_dblocks.training.trainer import BlockTrainer

BACKEND = keras.backend.backend()


def stepper(model, data):
    """Makes a function that performs one training step and waits for its end.

    Args:
        model: compiled `keras.Model`.
        data: tuple of numpy arrays, the batch of each step.
    """
    if isinstance(model, BlockTrainer):
        model.check_batch = lambda data, number: None  # as in `fit` of arrays
        model.reset_metrics()
    compat.symbolic_build(model, data)
    model.make_train_function(force=True)
    if BACKEND == "jax":
        import jax

        from keras_dblocks.memory.jax_memory import state_of

        batch = jax.device_put(data)
        holder = [state_of(model)]

        def step():
            logs, holder[0] = model.train_function(holder[0], iter([batch]))
            jax.block_until_ready((logs, holder[0]))

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        batch = keras.tree.map_structure(tf.constant, data)
        batches = iter(tf.data.Dataset.from_tensors(batch).repeat())

        def step():
            logs = model.train_function(batches)
            [np.array(v) for v in logs.values()]

    else:
        import torch

        batch = keras.tree.map_structure(torch.as_tensor, data)

        def step():
            model.train_function([batch])

    return step


def seconds(step):
    """Duration of one call in seconds."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def median_seconds(actions, repeats, warmups=1):
    """Median duration of each of several functions, which take turns.

    Args:
        actions: dict of functions by name.
        repeats: int, timed calls of each function.
        warmups: int, calls before these, which compile.

    Returns:
        dict of seconds by name.
    """
    taken = {name: [] for name in actions}
    for _ in range(warmups + repeats):
        for name, action in actions.items():
            taken[name].append(seconds(action))
    return {
        name: statistics.median(values[warmups:])
        for name, values in taken.items()
    }


def report(figure, **values):
    """Prints a result as one line of JSON."""
    print_line({"figure": figure, "backend": BACKEND, **values})


def print_line(values):
    """Prints a dict as one line of JSON, at once."""
    print(json.dumps(values), flush=True)
