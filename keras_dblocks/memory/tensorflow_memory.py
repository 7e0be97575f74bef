"""The GPU's own count, or how far a step makes the process grow on a CPU."""

import ctypes
import re
from pathlib import Path

import keras
import tensorflow as tf

from keras_dblocks.training.tensorflow_step import make_block_step

PROCESS = Path("/proc/self")  # Linux


def how():
    """How the figures were had."""
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow's peak on the GPU in a step"
    return "peak of the process in a step, less what it held before (CPU)"


def temporaries(model, data, index=None):
    """Bytes by which a step of the model, or of block `index`, needs more.

    Raises:
        ValueError: where the process cannot be looked at (not Linux).
    """
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if not gpu and not PROCESS.exists():
        raise ValueError(
            "On TensorFlow memory is measured on a GPU or on Linux. Received: "
            "neither. Measure on JAX, which needs nothing of the machine."
        )
    variables = [*model.variables, *model.optimizer.variables]
    before = [(v, keras.ops.convert_to_numpy(v)) for v in variables]
    step = model.train_on_batch
    if index is not None:
        block = make_block_step(model, index)

        def step(*batch):
            block(batch)

    # Traced twice, so that batches of any size run the same graph.
    for count in (1, 2):
        step(*_tensors(data, count))
    batch = _tensors(data, None)
    peak = _on_gpu(step, batch) if gpu else _on_cpu(step, batch)
    for variable, value in before:
        variable.assign(value)
    return peak


def _tensors(data, count):
    return keras.tree.map_structure(lambda a: tf.constant(a[:count]), data)


def _on_gpu(step, batch):
    start = tf.config.experimental.get_memory_info("GPU:0")["current"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    step(*batch)
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] - start


def _on_cpu(step, batch):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back
    (PROCESS / "clear_refs").write_text("5")  # the peak starts anew
    start = _kilobytes("VmRSS")
    step(*batch)
    return 1024 * (_kilobytes("VmHWM") - start)


def _kilobytes(name):
    status = (PROCESS / "status").read_text()
    return int(re.search(rf"{name}:\s*(\d+) kB", status)[1])
