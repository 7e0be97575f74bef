"""Trains and evaluates the rows of ViT's table of results.

All rows are trained on the same images with the same number of layer
evaluations. The twin takes K steps through all layers. DiffusionBlocks and the
layer-matched twin take B * K steps through 1 / B of the layers. The row
`counted` are our blocks with fewer steps, so that the forward passes of
on-policy noise are within the same budget; a forward pass counts as a third of
a step. The row `pipeline` are our blocks trained at the same time by two
workers of Ray, each on what the newest files of the earlier blocks hand over.
The tool prints one line of JSON for each row and seed:

    KERAS_BACKEND=torch python tools/compare_vit.py --data fashion_mnist.npz \
        --train-images 10000 --rows twin matched paper ours counted
"""

import argparse
import json
import tempfile
import time

import keras
from steps import BACKEND, print_line

from keras_dblocks.applications.data import load_images
from keras_dblocks.applications.program.optimizer import make_optimizer
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.recipes import IMAGES
from keras_dblocks.applications.vit import ViT
from keras_dblocks.ray import fit_blocks

LOSS = keras.losses.SparseCategoricalCrossentropy


def load(path, count):
    """Standardised images and labels, for training and for the test."""
    data = load_images(path)
    return (
        data.x_train[:count],
        data.y_train[:count],
        data.x_test,
        data.y_test,
    )


def optimizer(args, steps):
    """AdamW with a schedule over `steps` steps, of which 5 % are a warm-up."""
    options = ("learning_rate", "weight_decay")
    recipe = {**IMAGES, **{name: getattr(args, name) for name in options}}
    return make_optimizer(recipe, steps, steps // 20)


def train_twin(args, sizes, data, layers, epochs):
    """Trains a twin of `layers` layers.

    Returns:
        Two lists with one entry: its test accuracy and cross-entropy.
    """
    x, y, x_test, y_test = data
    sizes = {**sizes, "num_layers": layers}
    model = ViT.end_to_end(**sizes)
    steps = epochs * -(-len(x) // args.batch_size)
    loss = LOSS(from_logits=True)
    model.compile(optimizer(args, steps), loss)
    model.fit(x, y, args.batch_size, epochs, verbose=0)
    logits = model.predict(x_test, batch_size=500, verbose=0)
    return [accuracy(logits, y_test)], [cross_entropy(logits, y_test)]


def train_blocks(args, sizes, data, epochs, on_policy, ray=False, **options):
    """Trains DiffusionBlocks, by `fit` or by two workers of Ray.

    Returns:
        Two lists: test accuracies and cross-entropies after each block.
    """
    x, y, x_test, y_test = data
    model = ViT(num_blocks=args.num_blocks, **sizes, **options)
    # Every block takes 1 / B of the steps, and its schedule has this length.
    steps = epochs * -(-len(x) // args.batch_size) // args.num_blocks
    model.compile(optimizer(args, steps), on_policy=on_policy)
    if ray:
        with tempfile.TemporaryDirectory() as folder:
            fit_blocks(
                model,
                (x, y),
                storage_path=folder,
                epochs=epochs // args.num_blocks,
                batch_size=args.batch_size,
                num_workers=2,
                verbose=0,
            )
    else:
        model.fit(x, y, args.batch_size, epochs, verbose=0)
    steps = model.predict_steps(x_test, batch_size=500)
    losses = [cross_entropy(s, y_test) for s in steps]
    return [accuracy(s, y_test) for s in steps], losses


def accuracy(logits, labels):
    """Accuracy in percent."""
    return round(100 * float((logits.argmax(-1) == labels).mean()), 2)


def cross_entropy(logits, labels):
    """Mean cross-entropy in nats."""
    return round(float(LOSS(from_logits=True)(labels, logits)), 4)


def main():
    """Trains and evaluates the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--train-images", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-layers", type=int, default=6)
    parser.add_argument("--num-blocks", type=int, default=3)
    parser.add_argument("--hidden-dim", type=int, default=64)
    parser.add_argument("--num-heads", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--on-policy", type=float, default=1.0)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", default=["twin", "ours"])
    args = parser.parse_args()
    data = load(args.data, args.train_images)
    sizes = {
        "image_size": data[0].shape[1],
        "channels": data[0].shape[-1],
        "num_classes": int(data[1].max()) + 1,
        "patch_size": args.patch_size,
        "hidden_dim": args.hidden_dim,
        "num_heads": args.num_heads,
        "num_layers": args.num_layers,
        "dropout": args.dropout,
    }
    blocks, layers = args.num_blocks, args.num_layers

    def blocks_of(seed, epochs=args.epochs * blocks, **options):
        on_policy = 0.0 if options.get("reference") else args.on_policy
        options["seed"] = seed
        return train_blocks(args, sizes, data, epochs, on_policy, **options)

    def ours(seed, **options):
        return blocks_of(seed, **{**options, **args.options})

    # The backward pass of a step costs twice as much as its forward pass. For
    # on-policy noise, block b needs the forward passes of b earlier blocks.
    extra = args.on_policy * (blocks - 1) / 2 / 3
    fewer = round(args.epochs * blocks / (1 + extra))
    rows = {
        "twin": lambda seed: train_twin(args, sizes, data, layers, args.epochs),
        "matched": lambda seed: train_twin(
            args, sizes, data, layers // blocks, args.epochs * blocks
        ),
        "paper": lambda seed: blocks_of(seed, reference=True),
        "ours": ours,
        "pipeline": lambda seed: ours(seed, ray=True, sharing="targets"),
        "counted": lambda seed: ours(seed, epochs=fewer),
    }
    for row in args.rows:
        for seed in args.seeds:
            keras.utils.set_random_seed(seed)
            begin = time.time()
            accuracies, losses = rows[row](seed)
            result = {
                "row": row,
                "seed": seed,
                "accuracy": accuracies,
                "cross_entropy": losses,
                "seconds": round(time.time() - begin),
                "backend": BACKEND,
                "commit": commit(),
            }
            print_line(result)


if __name__ == "__main__":
    main()
