"""One training step of a compiled model at a time, to be timed."""

import json
import subprocess
import time

import keras
import numpy as np

from keras_dblocks import DiffusionBlocks

BACKEND = keras.backend.backend()


def stepper(model, data):
    """A function that takes one training step and waits for it."""
    if isinstance(model, DiffusionBlocks):
        model._next_step, model._checks_stream = 0, False
        model._batches_seen = 0
        model.reset_metrics()
    else:
        model._symbolic_build(data_batch=data)
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

        batch = tuple(tf.constant(d) for d in data)
        batches = iter(tf.data.Dataset.from_tensors(batch).repeat())

        def step():
            logs = model.train_function(batches)
            [np.array(v) for v in logs.values()]

    else:
        import torch

        batch = tuple(torch.as_tensor(d) for d in data)

        def step():
            model.train_function([batch])

    return step


def seconds(step):
    """Duration of one call."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def commit():
    """Short hash of the checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()


def report(figure, **values):
    """One line of JSON."""
    line = {"figure": figure, "backend": BACKEND, **values}
    print(json.dumps(line), flush=True)
