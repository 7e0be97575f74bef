"""Hand-overs run in each step against hand-overs kept in files.

A ViT in blocks that share nothing, trained one after another, twice for each
seed: the second time with `store_hand_overs`. Prints a line of JSON for each:
test accuracy after each block, seconds and processor seconds of `fit`, and the
bytes of the files.

    KERAS_BACKEND=jax python tools/compare_stored.py --data fashion_mnist.npz \
        --train-images 10000 --epochs 8
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
from compare_vit import accuracy, load, optimizer
from steps import BACKEND, print_line

from keras_dblocks.applications import ViT
from keras_dblocks.applications.program.record import commit, hardware


def train(args, data, seed, folder):
    """Trains a model; returns what is printed of it."""
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(seed)
    model = ViT(
        image_size=x.shape[1],
        channels=x.shape[-1],
        num_classes=int(y.max()) + 1,
        patch_size=args.patch_size,
        hidden_dim=args.hidden_dim,
        num_heads=4,
        num_layers=args.num_layers,
        num_blocks=args.num_blocks,
        sharing="targets",
        seed=seed,
    )
    epochs = args.epochs * args.num_blocks
    steps = epochs * -(-len(x) // args.batch_size) // args.num_blocks
    model.compile(
        optimizer(args, steps),
        curriculum="in_sequence",
        store_hand_overs=folder,
    )
    begun, cpu = time.perf_counter(), time.process_time()
    model.fit(x, y, args.batch_size, epochs, verbose=0)
    seconds = time.perf_counter() - begun, time.process_time() - cpu
    answers = model.predict_steps(x_test, batch_size=500)
    return {
        "seed": seed,
        "stored": folder is not None,
        "accuracy": [accuracy(a, y_test) for a in answers],
        "seconds": round(seconds[0], 1),
        "cpu_seconds": round(seconds[1], 1),
        "bytes": sum(p.stat().st_size for p in Path(folder).iterdir())
        if folder
        else 0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="digits")
    add("--train-images", type=int, default=None)
    add("--epochs", type=int, default=8)
    add("--batch-size", type=int, default=128)
    add("--num-layers", type=int, default=6)
    add("--num-blocks", type=int, default=3)
    add("--hidden-dim", type=int, default=64)
    add("--patch-size", type=int, default=4)
    add("--learning-rate", type=float, default=1e-3)
    add("--weight-decay", type=float, default=0.01)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    data = load(args.data, args.train_images)
    where = {
        "backend": BACKEND,
        "commit": commit(),
        "hardware": hardware()["cpu"],
    }
    for seed in args.seeds:
        print_line({**train(args, data, seed, None), **where})
        with tempfile.TemporaryDirectory() as folder:
            print_line({**train(args, data, seed, folder), **where})


if __name__ == "__main__":
    main()
