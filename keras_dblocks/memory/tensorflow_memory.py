"""Memory by the GPU's own count, or by the peak of a fresh process on a CPU.

A process keeps freed memory in its allocator unless it is told to return it,
and operations that run in parallel hold more or less memory by chance. The
fresh process is set up to avoid both.
"""

import ctypes
import importlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from keras_dblocks import compat
from keras_dblocks.training.tensorflow_step import make_step

STATUS = Path("/proc/self/status")  # Linux
# Run one operation at a time, and return large arrays to the system when they
# are freed.
STEADY = {
    "TF_NUM_INTEROP_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}


def how():
    """Describes how the figures were obtained."""
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow's peak on the GPU in a step"
    return "peak of a fresh process in a step, less what it held before (CPU)"


def temporaries(model, data, index=None):
    """Bytes of temporaries in a step of the model, or of block `index`.

    Raises:
        ValueError: if a process cannot be inspected (without a GPU this needs
            Linux), or if the fresh process cannot load the model.
    """
    if not tf.config.list_physical_devices("GPU") and not STATUS.exists():
        raise ValueError(
            "On TensorFlow memory is measured on a GPU or on Linux. Received: "
            "neither. Measure on JAX, which needs nothing of the machine."
        )
    modules = {type(layer).__module__ for layer in compat.sublayers(model)}
    modules = sorted(m for m in modules if m.partition(".")[0] != "keras")
    with tempfile.TemporaryDirectory() as folder:
        model.save(os.path.join(folder, "model.keras"))
        Path(folder, "data").write_bytes(pickle.dumps((data, index, modules)))
        done = subprocess.run(
            [sys.executable, "-m", __name__, folder],
            env={**os.environ, **STEADY, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing"]
        raise ValueError(
            "Measuring wants a model that a fresh process can load. "
            f"Received: {lines[-1]} Put its class into a module."
        )
    return int(done.stdout.split()[-1])


def main(folder):
    """Measures and prints the bytes in the fresh process."""
    data, index, modules = pickle.loads(Path(folder, "data").read_bytes())
    for module in modules:
        importlib.import_module(module)
    model = keras.saving.load_model(os.path.join(folder, "model.keras"))
    step = model.train_on_batch
    if index is not None:
        block = make_step(model, index)

        def step(*batch):
            block(batch)

    # Two sizes are traced first, so that the graph takes batches of any size.
    for count in (1, 2, None):
        batch = keras.tree.map_structure(
            lambda a, count=count: tf.constant(a[:count]), data
        )
        before, _ = _held(forget=True)
        step(*batch)
    print(_held()[1] - before)


def _held(forget=False):
    """Bytes held now and at the peak; `forget` resets the peak first."""
    if tf.config.list_physical_devices("GPU"):
        held = tf.config.experimental.get_memory_info("GPU:0")
        if forget:
            tf.config.experimental.reset_memory_stats("GPU:0")
        return held["current"], held["peak"]
    if forget:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    status = STATUS.read_text()
    sizes = (re.search(rf"{n}:\s*(\d+)", status) for n in ("VmRSS", "VmHWM"))
    return tuple(1024 * int(size[1]) for size in sizes)


if __name__ == "__main__":
    main(sys.argv[1])
