"""Trains a residual network from scratch: as a whole, and block after block.

The network is written with Keras's functional API and knows nothing of this
project. All rows have the same number of layer evaluations: end to end takes K
epochs through all layers, the others B * K epochs through one block. Rows:

- `end_to_end`: the network's own `fit`.
- `sequential`: `cut(training="sequential")`, block after block.
- `sampled`: the same, where a block is drawn for each batch.
- `first_block`: the network cut off after its first block.

The tool prints a line of JSON for each row and seed, with the accuracy on the
test images after each block:

    KERAS_BACKEND=jax python tools/compare_sequential.py \
        --data fashion_mnist.npz --train-images 10000 --epochs 6
"""

import argparse
import time

import keras
import numpy as np
from compare_vit import accuracy, load
from keras import layers
from steps import BACKEND, print_line

import keras_dblocks
from keras_dblocks import memory
from keras_dblocks.applications.program.optimizer import make_optimizer
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.recipes import IMAGES
from keras_dblocks.training.curriculum import Phase

ROWS = ("end_to_end", "sequential", "sampled", "first_block")


def residual_block(x, width, stride):
    """Two convolutions with batch normalisation, and a skip around them."""
    skip = x
    if stride > 1 or x.shape[-1] != width:
        skip = layers.Conv2D(width, 1, stride)(x)
    y = layers.Conv2D(width, 3, stride, "same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
    return layers.ReLU()(layers.Add()([skip, layers.BatchNormalization()(y)]))


def residual_network(shape, classes, widths, depth):
    """A residual network with one stage of `depth` blocks for each width."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(widths[0], 3, 2, "same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for i, width in enumerate(widths):
        for j in range(depth):
            x = residual_block(x, width, 2 if i and not j else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="residual")


def convolution_head(classes):
    """Function from the number of a block to a head that convolves first."""

    def make(index):
        return keras.Sequential(
            [
                layers.Conv2D(64, 3, 2, "same", activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(classes),
            ]
        )

    return make


def compiled(row, args, data, seed):
    """The network, what `fit` trains, and its number of epochs."""
    x, y, _, _ = data
    keras.utils.set_random_seed(seed)
    classes = int(y.max()) + 1
    model = residual_network(x.shape[1:], classes, args.widths, args.depth)
    blocks = args.num_blocks
    trained, options, epochs = model, {}, args.epochs
    if row != "end_to_end":
        head = convolution_head(classes) if args.head else None
        trained = keras_dblocks.cut(
            model, blocks, training="sequential", head=head, seed=seed
        )
        epochs *= blocks
        shares = args.shares or [1.0] * blocks
        phases = [Phase(share, i) for i, share in enumerate(shares)]
        options["curriculum"] = {
            "sequential": phases,
            "sampled": "sampled",
            "first_block": [Phase(1.0, 0)],
        }[row]
    batches = -(-len(x) // args.batch_size)
    # It is gone through as a whole in each phase, whatever its length.
    steps = args.epochs * batches
    recipe = {**IMAGES, "learning_rate": args.learning_rate}
    recipe["weight_decay"] = args.weight_decay
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(make_optimizer(recipe, steps, steps // 20), loss, **options)
    return model, trained, epochs


def train(row, args, data, seed):
    """Trains a row; returns the predictions after each block."""
    x, y, x_test, _ = data
    model, trained, epochs = compiled(row, args, data, seed)
    trained.fit(x, y, args.batch_size, epochs, verbose=0)
    if row == "end_to_end":
        return [model.predict(x_test, batch_size=500, verbose=0)]
    made = trained.predict_steps(x_test, batch_size=500)
    return made[:1] if row == "first_block" else made


def main():
    """Trains and evaluates the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", default="digits")
    add("--train-images", type=int, default=None)
    add("--epochs", type=int, default=6, help="K")
    add("--batch-size", type=int, default=128)
    add("--widths", type=int, nargs="+", default=[16, 32, 64])
    add("--depth", type=int, default=3, help="residual blocks a width")
    add("--num-blocks", type=int, default=3)
    add("--shares", type=float, nargs="*", default=[], help="of the steps")
    text = "heads that convolve before they pool"
    add("--head", action="store_true", help=text)
    add("--learning-rate", type=float, default=3e-3)
    add("--weight-decay", type=float, default=0.01)
    text = "print the temporaries of a step in bytes, and train nothing"
    add("--memory", action="store_true", help=text)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    args = parser.parse_args()
    data = load(args.data, args.train_images)
    if args.memory:
        batch = [array[: args.batch_size] for array in data[:2]]
        for row in ("end_to_end", "sequential"):
            trained = compiled(row, args, data, 0)[1]
            blocks = getattr(trained, "blocks", [None])
            for index in range(len(blocks)):
                some = None if row == "end_to_end" else [index]
                used = memory.measure(trained, *batch, blocks=some)
                found = {"row": row, "block": index, "how": used.how}
                found["temporaries"] = used.temporaries
                print_line(found)
        return
    for seed in args.seeds:
        for row in args.rows:
            busy = time.process_time()
            made = train(row, args, data, seed)
            busy = time.process_time() - busy
            result = {
                "row": row,
                "seed": seed,
                "accuracy": [accuracy(np.array(m), data[3]) for m in made],
                "shares": args.shares,
                "convolution_head": args.head,
                "learning_rate": args.learning_rate,
                "cpu_seconds": round(busy),
                "backend": BACKEND,
                "commit": commit(),
            }
            print_line(result)


if __name__ == "__main__":
    main()
