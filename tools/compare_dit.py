"""Trains and evaluates the rows of DiT's table of results.

All rows are trained on the same images with the same number of layer
evaluations. One block takes K steps through all layers. B blocks, and the
layer-matched model, which is only as deep as one of them, take B * K steps
through 1 / B of the layers. `train` writes a model for each row and seed to a
folder. `score` generates images with them and prints one line of JSON each:

    export KERAS_BACKEND=torch
    python tools/compare_dit.py train runs/compare --data fashion_mnist.npz \
        --rows one matched ours uniform --seeds 0 1
    python tools/compare_dit.py score runs/compare --data fashion_mnist.npz
"""

import argparse
import json
import random
import time
from pathlib import Path

import keras
import numpy as np
from steps import BACKEND, print_line

from keras_dblocks.applications import DiT
from keras_dblocks.applications.data import load_images
from keras_dblocks.applications.images.features import (
    features,
    train_feature_network,
)
from keras_dblocks.applications.metrics import (
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from keras_dblocks.applications.program.optimizer import make_optimizer
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.recipes import IMAGES


def load(args):
    """Images in [-1, 1] and labels, for training and for the test."""
    data = load_images(args.data).with_signed_pixels()
    return data.x_train, data.y_train, data.x_test, data.y_test


def make(row, args, sizes, seed):
    """Makes the model of a row, which takes `longer` times K steps."""
    blocks = args.num_blocks
    common = {**sizes, "seed": seed, **args.options}
    if row == "one":
        return DiT.end_to_end(**common), 1
    if row == "matched":
        layers = {"num_layers": args.num_layers // blocks}
        return DiT.end_to_end(**{**common, **layers}), blocks
    options = {
        "ours": {},
        "paper": {"reference": True},
        "uniform": {"partition": "log_uniform"},
    }[row]
    return DiT(num_blocks=blocks, **{**common, **options}), blocks


def train(args):
    """Trains the rows and seeds that were requested."""
    x, y, _, _ = load(args)
    sizes = {
        "image_size": x.shape[1],
        "channels": x.shape[-1],
        "num_classes": int(y.max()) + 1,
        "patch_size": args.patch_size,
        "hidden_dim": args.hidden_dim,
        "num_heads": args.num_heads,
        "num_layers": args.num_layers,
    }
    for row in args.rows:
        for seed in args.seeds:
            random.seed(seed)  # initializers
            model, longer = make(row, args, sizes, seed)
            steps = args.steps * longer
            each = steps // model.num_blocks
            recipe = {**IMAGES, "weight_decay": 0.0}
            recipe["learning_rate"] = args.learning_rate
            model.compile(
                make_optimizer(recipe, each, each // 20),
                on_policy="auto" if args.on_policy is None else args.on_policy,
            )
            begin = time.time()
            order = repeat(len(x), steps * args.batch_size, seed)
            model.fit(
                x[order],
                y[order],
                batch_size=args.batch_size,
                shuffle=False,
                verbose=0,
            )
            args.folder.mkdir(parents=True, exist_ok=True)
            path = args.folder / f"{row}-{seed}.keras"
            model.save(path)
            print_line(
                {
                    "row": row,
                    "seed": seed,
                    "steps": steps,
                    "seconds": round(time.time() - begin),
                    "backend": BACKEND,
                    "commit": commit(),
                }
            )


def repeat(count, wanted, seed):
    """Indices of examples: shuffled epochs, cut to `wanted` in all."""
    rng = np.random.default_rng(seed)
    epochs = -(-wanted // count)
    orders = [rng.permutation(count) for _ in range(epochs)]
    return np.concatenate(orders)[:wanted]


def score(args):
    """Evaluates every model in the folder with the metrics of images."""
    x, y, x_test, y_test = load(args)
    extractor = train_feature_network(x, y, args.folder / "features.keras")
    real = features(extractor, x_test)
    rng = np.random.default_rng(0)
    labels = rng.choice(y_test, args.images)
    for path in sorted(args.folder.glob(args.models)):
        if path.name == "features.keras":
            continue
        model = keras.saving.load_model(path, compile=False)
        for seed in args.seeds[:1]:
            begin = time.time()
            images = model.generate(
                labels,
                num_steps=args.num_steps,
                guidance_scale=args.guidance,
                sampler=args.sampler,
                grid=args.grid,
                seed=seed + 1000,
                batch_size=250,
            )
            fake = features(extractor, images)
            precision, recall = precision_recall(real[: len(fake)], fake)
            result = {
                "model": path.stem,
                "sampler": args.sampler,
                "grid": args.grid,
                "num_steps": args.num_steps,
                "guidance": args.guidance,
                "frechet": round(frechet_distance(real, fake), 3),
                "kernel": round(kernel_distance(real, fake), 5),
                "precision": round(precision, 3),
                "recall": round(recall, 3),
                "seconds": round(time.time() - begin),
                "commit": commit(),
            }
            print_line(result)


def main():
    """Runs one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("command", choices=["train", "score"])
    add("folder", type=Path)
    add("--data", default="digits")
    add("--steps", type=int, default=1000, help="K")
    add("--batch-size", type=int, default=128)
    add("--num-layers", type=int, default=6)
    add("--num-blocks", type=int, default=3)
    add("--hidden-dim", type=int, default=64)
    add("--num-heads", type=int, default=4)
    add("--patch-size", type=int, default=4)
    add("--learning-rate", type=float, default=1e-3)
    add("--options", type=json.loads, default={})
    add("--on-policy", type=float, default=None)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--rows", nargs="+", default=["one", "matched", "ours", "uniform"])
    add("--models", default="*.keras")
    add("--images", type=int, default=2000)
    add("--num-steps", type=int, default=50)
    add("--guidance", type=float, default=None)
    add("--sampler", default="euler")
    add("--grid", default=None)
    args = parser.parse_args()
    (train if args.command == "train" else score)(args)


if __name__ == "__main__":
    main()
