"""Peak memory of the live tensors in a forward and a backward pass."""

import gc
import weakref

import keras
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keras_dblocks.training.torch_step import TorchStep

COLLECT_EVERY = 50  # operations


def how():
    """Describes how the figures were obtained."""
    if torch.cuda.is_available():
        return "peak of the CUDA allocator in a forward and a backward pass"
    return "peak of live tensors in a forward and a backward pass on a CPU"


def temporaries(model, data, index=None):
    """Bytes alive at the peak of a step of the model, or of block `index`.

    The optimizer's update, which works on one variable after the other, is
    left out, so that no weight changes.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
        keras.tree.map_structure(keras.ops.convert_to_tensor, data)
    )
    before = [
        (v, keras.ops.copy(v)) for v in model.variables if not v.trainable
    ]

    def loss():
        if index is None:
            prediction = model(x, training=True)
            return model.compute_loss(x, y, prediction, sample_weight)
        step, batch = TorchStep(model, index), (x, y, sample_weight)
        constants = step.block.loss_constants()
        return step.loss(batch, step.hand_over(batch), constants)

    count = _on_gpu if torch.cuda.is_available() else _on_cpu
    peak = count(lambda: loss().backward())
    for variable in model.trainable_variables:
        variable.value.grad = None
    for variable, value in before:
        variable.assign(value)
    return peak


def _on_gpu(run):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - start


def _on_cpu(run):
    # Keras leaves cycles that hold tensors until Python collects them, and
    # when that happens would decide the peak: here every few operations.
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        with _LiveBytes() as live:
            run()
    finally:
        if collects:
            gc.enable()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the live bytes of storages that were made inside the context."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = self.operations = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        if self.operations % COLLECT_EVERY == 0:
            gc.collect(1)  # the young, among which the cycles are
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage):
        if storage in self.known:
            return
        self.known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, count):
        self.now -= count
