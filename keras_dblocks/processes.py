"""Several PyTorch processes that train one model, each on rows of its own.

They are started by `torchrun`, and `torch.distributed.init_process_group` has
been called in each. On the other backends, and in a process by itself, there is
one process, and nothing here does anything.
"""

import hashlib
import warnings

import keras
from keras import ops

from keras_dblocks import compat


def count():
    """Number of processes (int)."""
    torch = _torch()
    return torch.distributed.get_world_size() if torch else 1


def number():
    """Number of this process, 0 for the one that writes files (int)."""
    torch = _torch()
    return torch.distributed.get_rank() if torch else 0


def rows_of(batch, first=None):
    """Numbers of this process's rows in the batch that all have together.

    Args:
        batch: number of rows of this process's batch.
        first: how many of its first rows are meant. Defaults to all.

    Returns:
        int32 tensor.
    """
    rows = ops.arange(batch if first is None else first, dtype="int32")
    return rows if count() == 1 else rows + number() * batch


class Joint:
    """Averages what a step of each process has found.

    Args:
        name: str, of the model, for messages.
    """

    def __init__(self, name):
        self.name = name
        self.first = True

    def __call__(self, gradients, loss, data):
        """The mean gradients and loss of all processes, in one all-reduce.

        Args:
            gradients: list of tensors; None for what the loss does not read.
            loss: tensor, a scalar.
            data: the batch, whose rows must be as many in every process.

        Returns:
            Pair of the list and the scalar.
        """
        torch = _torch()
        if torch is None:
            return gradients, loss
        leaves = [d for d in keras.tree.flatten(data) if d is not None]
        rows = float(leaves[0].shape[0])
        seen = float(ops.sum(ops.cast(leaves[0], "float32")))
        known = [loss.new_tensor([loss.item(), rows, rows**2, seen, seen**2])]
        parts = [g for g in gradients if g is not None]
        flat = torch.cat([g.flatten().float() for g in parts] + known)
        torch.distributed.all_reduce(flat)
        flat = flat / count()
        loss, rows, squared, seen, squares = flat[-5:].unbind()
        if not torch.isclose(squared, rows**2):
            raise ValueError(
                "Every process must have as many rows in a step. Received: "
                f"{leaves[0].shape[0]} in this one, and {float(rows):g} in the "
                "mean. Divide the rows evenly, and drop what is left over."
            )
        if self.first and torch.isclose(squares, seen**2, rtol=1e-6):
            warnings.warn(
                f"All {count()} processes seem to train {self.name} on the "
                "same rows. Pass each process rows of its own.",
                stacklevel=2,
            )
        self.first = False
        sizes = [g.numel() for g in parts]
        means = iter(flat[:-5].split(sizes))
        return [
            None if g is None else next(means).view_as(g).to(g.dtype)
            for g in gradients
        ], loss


def begin_fit(model, epochs, steps):
    """Makes all processes begin alike; a ValueError if they cannot.

    Args:
        model: `keras.Model`, whose weights and optimizer state become those
            of process 0.
        epochs, steps: ints, the epochs of `fit` and their steps, or None.
    """
    torch = _torch()
    if torch is None:
        return
    variables = [*model.variables, *model.optimizer.variables]
    shapes = str([(tuple(v.shape), str(v.dtype)) for v in variables])
    own = {
        "a network": hashlib.sha256(shapes.encode()).hexdigest()[:12],
        "a number of steps": [epochs, steps],
        "a seed": getattr(model, "seed", None),
    }
    found = [None] * count()
    torch.distributed.all_gather_object(found, own)
    for name, value in own.items():
        values = [one[name] for one in found]
        if any(other != value for other in values):
            raise ValueError(
                f"All processes train alike. Received: {name} of its own in "
                f"each, {values}. Give every process the same model and as "
                "many batches."
            )
    with torch.no_grad():
        for variable in variables:
            torch.distributed.broadcast(variable.value, 0)
        for generator in compat.seed_generators([model]):
            generator.state.value[0] += number()  # dropout of its own


def mean_logs(logs):
    """The mean over processes of a dict of numbers; all have the same keys."""
    torch = _torch()
    if torch is None:
        return logs
    values = torch.tensor([float(value) for value in logs.values()])
    torch.distributed.all_reduce(values)
    means = (values / count()).tolist()
    return dict(zip(logs, means, strict=True))


class RestoredOnly(keras.callbacks.Callback):
    """A `BackupAndRestore` that reads what process 0 writes."""

    def __init__(self, backup):
        super().__init__()
        self.backup = backup

    def on_train_begin(self, logs=None):
        self.backup.set_model(self.model)
        self.backup.on_train_begin(logs)


def callbacks_of(callbacks):
    """The callbacks that this process calls: files are written by process 0.

    Args:
        callbacks: list of callbacks.
    """
    if number() == 0:
        return callbacks
    writers = (
        keras.callbacks.CSVLogger,
        keras.callbacks.ModelCheckpoint,
        keras.callbacks.TensorBoard,
    )
    return [
        RestoredOnly(callback)
        if isinstance(callback, keras.callbacks.BackupAndRestore)
        else callback
        for callback in callbacks
        if not isinstance(callback, writers)
    ]


def refuse_alone(model):
    """Refuses what trains in one process where there are several."""
    if count() > 1:
        raise ValueError(
            "A block by itself is trained in one process. Received: "
            f"{count()} processes that call `fit` of {model.name}. Call `fit` "
            "of the whole model, which averages the gradients of the block "
            "that is drawn, or start one process for each block without "
            "`init_process_group`."
        )


def refuse_wrapped(model):
    """Refuses a forward pass inside of PyTorch's own data parallelism."""
    torch = _torch()
    if torch is None:
        return
    wrapper = torch.nn.parallel.DistributedDataParallel
    if wrapper._get_active_ddp_module() is not None:
        raise ValueError(
            "Processes train blocks by `fit` of the model itself. Received: "
            f"{model.name} inside of a DistributedDataParallel, which would "
            "train another objective, and wait for the gradients of blocks "
            "that are not drawn. Call `model.fit` in every process."
        )


def _torch():
    """The module if there are several processes, or None."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    joined = torch.distributed.is_available()
    joined = joined and torch.distributed.is_initialized()
    several = joined and torch.distributed.get_world_size() > 1
    return torch if several else None
