"""What `test_ray.py` runs in a process of its own, which starts Ray.

It is called with the name of a function below and a folder for its results.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

from helpers import small_mlp
from keras_dblocks.ray import fit_blocks

ROWS, BATCH, EPOCHS = 40, 8, 3
X, Y = small_mlp.data(ROWS)


def make(on_policy=0):
    model = small_mlp.three_blocks(sharing="targets")
    model.compile(keras.optimizers.AdamW(1e-2), on_policy=on_policy)
    return model


def one_after_another():
    """The blocks trained in this process."""
    model = make()
    for index in range(3):
        block = model.block(index)
        block.compile(keras.optimizers.AdamW(1e-2))
        block.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def differences(first, second):
    return [
        float(np.abs(a - b).max(initial=0.0))
        for a, b in zip(
            small_mlp.values(w for b in first.blocks for w in b.weights),
            small_mlp.values(w for b in second.blocks for w in b.weights),
            strict=True,
        )
    ]


class Killed(keras.callbacks.Callback):
    """Kills its process once, as if the machine had gone.

    Args:
        marker: path of a file that says that it did.
        step: int, of all epochs.
        block: int or None, of a network whose workers train one block each:
            the block whose worker dies.
    """

    def __init__(self, marker, step, block=None):
        super().__init__()
        self.marker, self.step, self.block = marker, step, block
        self.seen = 0

    def on_train_batch_end(self, batch, logs=None):
        if self.block is not None:
            self.seen += self.model.block_order.order == self.block
        else:
            self.seen += 1
        if self.seen == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def fit_with(model, folder, callbacks, **kwargs):
    def data():
        return {
            "x": X,
            "y": Y,
            "batch_size": BATCH,
            "callbacks": callbacks,
        }

    arguments = {"epochs": EPOCHS, "num_workers": 2, "verbose": 0, **kwargs}
    return fit_blocks(model, data, storage_path=folder, **arguments)


def killed(folder):
    """Whichever worker comes first to the given step dies there."""
    step = int(np.random.default_rng(int(folder.name)).integers(1, 15))
    model = make()
    marker = folder / "marker"
    fit_with(model, folder / "run", [Killed(marker, step)])
    assert marker.exists()
    return {
        "step": step,
        "difference": max(differences(model, one_after_another())),
    }


def independent(folder):
    """One dies; then the same call again, and one with other settings."""
    model, again = make(), make()
    marker = folder / "marker"
    callbacks = [Killed(marker, 7)]
    fit_with(model, folder / "run", callbacks)
    found = {"killed": marker.exists()}
    serial = one_after_another()
    found["difference"] = max(differences(model, serial))
    found["moved"] = min(
        max(differences(*pair)) for pair in [(model, again), (serial, again)]
    )
    fit_with(again, folder / "run", callbacks)
    found["again"] = max(differences(model, again))
    try:
        fit_with(make(), folder / "run", callbacks, epochs=1)
    except ValueError as error:
        found["other"] = str(error)
    found["files"] = sorted(path.name for path in (folder / "run").iterdir())
    return found


class Fails(keras.callbacks.Callback):
    """Ends the training of block 1 while a file exists."""

    def __init__(self, marker):
        super().__init__()
        self.marker = marker

    def on_epoch_end(self, epoch, logs=None):
        if self.marker.exists() and self.model.index == 1 and epoch == 1:
            raise OSError("No space left on device")


def lost(folder):
    """One block cannot be trained; later the cause is mended."""
    model, marker = make(), folder / "marker"
    marker.touch()
    callbacks = [Fails(marker)]
    found = {}
    try:
        fit_with(model, folder / "run", callbacks, max_failures=0)
    except RuntimeError as error:
        found["error"] = str(error)
    serial = one_after_another()
    kept = small_mlp.values(model.block(2).weights)
    wanted = small_mlp.values(serial.block(2).weights)
    found["kept"] = all(map(np.array_equal, kept, wanted))
    marker.unlink()
    fit_with(model, folder / "run", callbacks, max_failures=0)
    found["difference"] = max(differences(model, serial))
    return found


class Earlier(keras.callbacks.Callback):
    """Writes a sum over block 0's weights at each epoch's end, by block 2."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        if self.model.block_order.order == 2:
            with open(self.path, "a") as file:
                file.write(f"{size_of(self.model)}\n")


def size_of(model):
    """Sum of the absolute weights of block 0."""
    weights = small_mlp.values(model.block(0).trainable_variables)
    return sum(float(np.abs(w).sum()) for w in weights)


def pipeline(folder):
    """Blocks on hand-overs of earlier blocks' files."""
    model = make(on_policy=1.0)
    path = folder / "earlier.txt"
    fit_with(model, folder / "function", [Earlier(path)], epochs=8)
    # Two train at once: block 0 is complete when block 2 begins.
    read = {float(line) for line in path.read_text().split()}
    read = read == {size_of(model)} and read != {size_of(make(1.0))}
    model = make(on_policy=1.0)
    fit_blocks(
        model,
        (X, Y),
        storage_path=folder / "run",
        epochs=4,
        batch_size=BATCH,
        refresh_every=2,
        verbose=0,
    )
    first = make(on_policy=1.0)
    first.compile(keras.optimizers.AdamW(1e-2), on_policy=1.0, block_order=0)
    # As many steps, in as many epochs.
    first.fit(X, Y, batch_size=BATCH, epochs=10, steps_per_epoch=2, verbose=0)
    own = small_mlp.values(model.block(0).weights)
    wanted = small_mlp.values(first.block(0).weights)
    return {
        "first": all(map(np.array_equal, own, wanted)),
        "read": read,
        "loss": model.evaluate(X, Y, verbose=0, return_dict=True)["loss"],
        "before": make(1.0).evaluate(X, Y, verbose=0, return_dict=True)["loss"],
    }


def pipeline_killed(folder):
    """A worker dies while it trains on what block 0 hands over.

    One block at a time: what a worker reads does not depend on the others'
    speed, and the dead one must have left no trace.
    """
    models = [make(on_policy=1.0) for _ in range(2)]
    marker = folder / "marker"
    for model, name in zip(models, ("killed", "whole"), strict=True):
        callbacks = [Killed(marker, 7, block=1)] if name == "killed" else []
        fit_with(model, folder / name, callbacks, num_workers=1)
    return {
        "killed": marker.exists(),
        "difference": max(differences(*models)),
        "moved": max(differences(models[0], make(on_policy=1.0))),
    }


if __name__ == "__main__":
    results = {}
    folder = Path(sys.argv[-1])
    for scenario in sys.argv[1:-1]:
        name, _, number = scenario.partition(":")
        own = folder / (number or name)
        own.mkdir()
        results[scenario] = globals()[name](own)
    (folder / "results.json").write_text(json.dumps(results))
