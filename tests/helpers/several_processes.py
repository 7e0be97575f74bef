"""What each process of `test_processes.py` runs; `torchrun` starts them.

It is called with names of functions below, joined by commas, and a folder for
their results.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

ROWS = 4  # of a process in a step
STEPS = 6
NAMES = ["vit", "dit", "mdm", "ar", "recurrent_depth", "cut", "sequential"]


def joined(name):
    """Arrays of which each step takes 2 * ROWS rows."""
    from helpers import networks, small_systems

    if name in ("cut", "sequential"):
        return networks.vectors(2 * ROWS * STEPS)
    return small_systems.data(name, 2 * ROWS * STEPS)


def part(arrays, rank):
    """The rows of one process: in each step, a half of the joined batch."""

    def half(array):
        shape = STEPS, 2, ROWS, *array.shape[1:]
        return array.reshape(shape)[:, rank].reshape(-1, *array.shape[1:])

    return tuple(map(half, arrays))


class Losses(keras.callbacks.Callback):
    """The running loss after every step."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(float(logs["loss"]))


def make(name):
    """A small system, or a network that was cut, and arguments to compile."""
    import keras_dblocks
    from helpers import networks, small_systems

    if name in ("cut", "sequential"):
        network, _, loss = networks.make("sequential")
        training = "exact" if name == "cut" else "sequential"
        return keras_dblocks.cut(network, 2, training=training), {"loss": loss}
    # What is dropped out differs between processes.
    options = {"class_dropout": 0.0} if name == "dit" else {}
    return small_systems.make(name, **options), {}


def train(name, arrays, batch_size):
    """Losses of a fit of a small system, and its weights."""
    model, options = make(name)
    losses = Losses()
    model.compile(keras.optimizers.AdamW(0.01, clipnorm=1.0), **options)
    model.fit(
        *arrays,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[losses],
    )
    norm = sum(float(np.abs(np.array(v.numpy())).sum()) for v in model.weights)
    return losses.found, norm


def equal(rank, folder):
    found = {n: train(n, part(joined(n), rank), ROWS) for n in NAMES}
    (folder / f"equal-{rank}.json").write_text(json.dumps(found))


def refused(call):
    """The message of the ValueError that a call raises."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def refusals(rank, folder):
    from torch.nn.parallel import DistributedDataParallel

    from helpers import small_systems

    x, y = joined("vit")
    found = {}
    model = small_systems.make("vit")
    model.compile("sgd")
    rows = 4 if rank else 3
    found["uneven"] = refused(lambda: model.fit(x[:rows], y[:rows], verbose=0))
    found["steps"] = refused(
        lambda: model.fit(x[: 8 + 8 * rank], y[: 8 + 8 * rank], 4, verbose=0)
    )
    block = model.block(0)
    block.compile("sgd")
    found["alone"] = refused(lambda: block.fit(x, y, verbose=0))
    wrapped = DistributedDataParallel(block)
    found["wrapped"] = refused(lambda: wrapped(x[:4]))
    other = small_systems.make("vit", intermediate_dim=64 + 64 * rank)
    other.compile("sgd")
    found["network"] = refused(lambda: other.fit(x, y, 4, verbose=0))
    (folder / f"refusals-{rank}.json").write_text(json.dumps(found))


def files(rank, folder):
    """What is written is process 0's; a callback decides alike everywhere."""
    from helpers import small_systems

    x, y = part(joined("vit"), rank)
    model = small_systems.make("vit")
    model.compile("adamw", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.BackupAndRestore(folder / "backup"),
        keras.callbacks.ModelCheckpoint(folder / "best.keras"),
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=9.0),
    ]
    # Other validation rows in each process: alone they would decide apart.
    held_out = x[rank : rank + 4], y[rank : rank + 4]
    history = model.fit(
        x,
        y,
        ROWS,
        epochs=5,
        verbose=0,
        validation_data=held_out,
        callbacks=callbacks,
    ).history
    model.save(folder / f"saved-by-{rank}.keras")
    (folder / f"files-{rank}.json").write_text(json.dumps(history))


def killed(rank, folder):
    """Process 1 dies in the middle of a step of the second epoch."""

    class Dies(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if rank == 1 and self.epoch == 1 and batch == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    from helpers import small_systems

    model = small_systems.make("vit")
    model.compile("adamw")
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    model.fit(
        *part(joined("vit"), rank),
        ROWS,
        epochs=9,
        verbose=0,
        callbacks=[backup, Dies()],
    )


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    scenarios, folder = sys.argv[1:]
    for scenario in scenarios.split(","):
        globals()[scenario](torch.distributed.get_rank(), Path(folder))
    torch.distributed.destroy_process_group()
