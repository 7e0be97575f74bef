"""Memory of one training step, measured on this backend."""

import importlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import tree

from keras_dblocks.memory.usage import Memory, of_parts, size
from keras_dblocks.training.trainer import BlockTrainer


def measure(
    model: keras.Model,
    x: Any,
    y: Any = None,
    blocks: Sequence[int] | None = None,
) -> Memory:
    """Peak memory of one training step on a batch.

    On JAX the figures are XLA's own accounting of the compiled step, which is
    exact on a CPU too and runs nothing. On PyTorch they are the allocator's
    peak on a GPU, or the bytes of all tensors alive at the peak of forward and
    backward pass on a CPU. On TensorFlow they are the GPU's memory info, or
    the peak of a fresh process on a CPU. No weight is changed.

    Args:
        model: compiled `DiffusionBlocks` or network that was `cut` (the block
            whose step needs most memory counts, and all parameters and
            optimizer states are resident), compiled `Block` (one block
            alone), or any other compiled `keras.Model`.
        x, y: one batch, as given to `fit`.
        blocks: list of ints, the blocks to measure, or None for all.

    Returns:
        `Memory`.

    Raises:
        ValueError: if the model is not compiled.

    Example:

    ```python
    usage = keras_dblocks.memory.measure(model, x[:128], y[:128])
    print(usage.total, usage.how)
    ```
    """
    if not model.compiled:
        raise ValueError(
            "Memory is that of a training step. Received: a model that is not "
            'compiled. Call `compile("adamw")`.'
        )
    backend = importlib.import_module(
        f"keras_dblocks.memory.{keras.backend.backend()}_memory"
    )
    data = (x,) if y is None else (x, y)
    data = tree.map_structure(keras.ops.convert_to_numpy, data)
    if not isinstance(model, BlockTrainer):
        if not model.built:
            model.build()
        model.optimizer.build(model.trainable_variables)
        found = [backend.temporaries(model, data)]
        trained = model.trainable_variables
    else:
        indices = range(model.num_blocks) if blocks is None else blocks
        found = [backend.temporaries(model, data, i) for i in indices]
        trained = max(
            (model.blocks[i].trainable_variables for i in indices),
            key=size,
        )
    state = model.optimizer.variables
    return of_parts(model.weights, state, trained, max(found), backend.how())
