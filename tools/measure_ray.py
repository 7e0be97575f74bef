"""Blocks in workers of Ray against one after another in one process.

A ViT on random images; a step of a block takes the same time whatever it
learns. Every process computes on one thread. Prints a line of JSON: seconds of
each way, what a block's worker takes beside its steps (its start, its imports,
its compilation), and the bytes that each worker sent over TCP between its first
and its last step, by the kernel's count (`ss`, of iproute2).

    NPROC=1 KERAS_BACKEND=jax python tools/measure_ray.py --blocks 4 --workers 2
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import ray
from steps import BACKEND, print_line

from keras_dblocks.applications import ViT
from keras_dblocks.applications.program.record import commit, hardware
from keras_dblocks.ray import fit_blocks

BATCH = 32


def bytes_sent():
    """Bytes that this process sent over its present TCP connections."""
    command = ["ss", "--tcp", "--numeric", "--processes", "--info", "--oneline"]
    found = subprocess.run(command, capture_output=True, text=True).stdout
    own = [row for row in found.splitlines() if f"pid={os.getpid()}," in row]
    words = [word for row in own for word in row.split()]
    sent = [w for w in words if w.startswith("bytes_sent:")]
    return sum(int(word.partition(":")[2]) for word in sent)


class Traffic(keras.callbacks.Callback):
    """Writes what a worker sent, and how long its steps took.

    Args:
        folder: path of the folder for a file of each worker.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_batch_end(self, batch, logs=None):
        if not hasattr(self, "first"):  # the step before compiled
            self.first = bytes_sent(), time.perf_counter()

    def on_train_end(self, logs=None):
        sent, begun = self.first
        seconds = time.perf_counter() - begun
        text = f"{bytes_sent() - sent} {seconds}"
        (self.folder / f"{self.model.name}.txt").write_text(text)


def make(args):
    keras.utils.set_random_seed(0)
    model = ViT(
        image_size=16,
        num_classes=10,
        num_layers=2 * args.blocks,
        num_blocks=args.blocks,
        hidden_dim=args.width,
        num_heads=4,
        sharing="targets",
    )
    model.compile(keras.optimizers.AdamW(1e-3), on_policy=0)
    return model


def on_ray(args, x, y):
    """Seconds, and what the workers measured."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def data():
            return {
                "x": x,
                "y": y,
                "batch_size": BATCH,
                "callbacks": [Traffic(folder)],
            }

        begun = time.perf_counter()
        fit_blocks(
            make(args),
            data,
            epochs=args.epochs,
            storage_path=folder / "run",
            num_workers=args.workers,
            verbose=0,
        )
        seconds = time.perf_counter() - begun
        read = [path.read_text().split() for path in folder.glob("*.txt")]
    sent, steps = zip(*read, strict=True)
    return seconds, [int(s) for s in sent], [float(s) for s in steps]


def one_after_another(args, x, y):
    """Seconds of `fit` of each block in this process."""
    model, begun = make(args), time.perf_counter()
    for index in range(args.blocks):
        block = model.block(index)
        block.compile(keras.optimizers.AdamW(1e-3))
        block.fit(x, y, batch_size=BATCH, epochs=args.epochs, verbose=0)
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--blocks", type=int, default=4)
    add("--workers", type=int, default=2)
    add("--width", type=int, default=96)
    add("--images", type=int, default=2048)
    add("--epochs", type=int, default=6)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(args.images, 16, 16, 3)).astype("float32")
    y = rng.integers(0, 10, args.images)
    serial = one_after_another(args, x, y)
    # Before the clock runs: it starts once a program, and not for a block.
    ray.init("local", runtime_env={"env_vars": {"KERAS_BACKEND": BACKEND}})
    several, sent, steps = on_ray(args, x, y)
    spent = several * args.workers - sum(steps)
    print_line(
        {
            "backend": BACKEND,
            "blocks": args.blocks,
            "workers": args.workers,
            "seconds_one_process": round(serial, 1),
            "seconds_workers": round(several, 1),
            "ratio": round(several / serial, 3),
            "ray_seconds_a_block": round(spent / args.blocks, 1),
            "bytes_sent_by_workers": sent,
            "commit": commit(),
            "hardware": hardware()["cpu"],
        }
    )


if __name__ == "__main__":
    main()
