"""Masked diffusion where depth helps: Latin squares.

A Latin square of 5 x 5 symbols, some of them masked, is filled in by one
inference after another, and text is not. All rows are trained by `model.fit`
alone, with the same number of layer evaluations: the end-to-end twin takes K
steps, the layer-matched twin and B blocks B * K steps through 1 / B of the
layers. The tool prints one line of JSON for each row and seed, with the bound
on 2,000 new squares (0.692 bits a symbol are in a square drawn at random), and
what it costs by level of masking:

    KERAS_BACKEND=jax python tools/compare_latin_squares.py --seeds 0 1
"""

import argparse
import itertools
import json
import time

import keras
import numpy as np
from steps import BACKEND, print_line

import keras_dblocks
from keras_dblocks.applications import MDM
from keras_dblocks.applications.program.optimizer import make_optimizer
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.recipes import TEXT

ROWS = ("end_to_end", "layer_matched", "blocks")
SIDE = 5


def reduced_squares():
    """All whose first row and first column are in order, `(56, 5, 5)`."""
    lines = list(itertools.permutations(range(SIDE)))
    found = [[lines[0]]]
    for row in range(1, SIDE):
        found = [
            [*rows, line]
            for rows in found
            for line in lines
            if line[0] == row
            and all(np.not_equal(line, other).all() for other in rows)
        ]
    return np.array(found)


def draw_squares(rng, count):
    """Squares of equal probability, int32 `(count, 25)`."""
    reduced = reduced_squares()
    chosen = reduced[rng.integers(0, len(reduced), count)]
    squares = np.empty((count, SIDE * SIDE), "int32")
    for i, square in enumerate(chosen):
        square = square[:, rng.permutation(SIDE)]
        below = 1 + rng.permutation(SIDE - 1)
        squares[i] = square[np.r_[0, below]].ravel()
    return squares


def train(args, squares, row, seed):
    """The trained model of a row."""
    keras.utils.set_random_seed(seed)
    model = MDM(
        vocabulary_size=SIDE,
        sequence_length=SIDE * SIDE,
        hidden_dim=args.hidden_dim,
        num_heads=4,
        num_layers=args.num_layers,
        num_blocks=args.num_blocks,
        seed=seed,
        **(args.options if row == "blocks" else {}),
    )
    steps = args.steps * (1 if row == "end_to_end" else args.num_blocks)
    length, options = steps, {}
    if row == "blocks":  # a schedule of theirs is for the steps of one block
        length, options = args.steps, args.compile
    else:
        model = getattr(model, row)()
    recipe = {**TEXT, "learning_rate": args.learning_rate}
    model.compile(make_optimizer(recipe, length, 100), **options)
    count = steps * args.batch_size
    order = np.resize(np.arange(len(squares)), count)
    order = np.random.default_rng(seed + 1).permutation(order)
    model.fit(squares[order], batch_size=args.batch_size, verbose=0)
    return model


def main():
    """Trains and evaluates the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--steps", type=int, default=1500, help="K")
    add("--batch-size", type=int, default=64)
    add("--num-layers", type=int, default=6)
    add("--num-blocks", type=int, default=3)
    add("--hidden-dim", type=int, default=64)
    add("--learning-rate", type=float, default=2e-3)
    options = {"type": json.loads, "default": {}}
    add("--options", help="keywords of the blocks, as JSON", **options)
    add("--compile", help="keywords of their `compile`, as JSON", **options)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    squares, test = draw_squares(rng, 100_000), draw_squares(rng, 2000)
    for seed in args.seeds:
        for row in args.rows:
            busy = time.process_time()
            model = train(args, squares, row, seed)
            busy = time.process_time() - busy
            # As many masks for a model of one block as for all blocks.
            draws = 8 * args.num_blocks // model.num_blocks
            scores = model.evaluate(
                test, batch_size=100, num_draws=draws, return_dict=True
            )
            found = keras_dblocks.diagnose(
                model, test[:1000], levels_per_block=9 // model.num_blocks
            )
            levels = [r for r in found.rows if r["input"] == "noised"]
            print_line(
                {
                    "row": row,
                    "seed": seed,
                    "cpu_seconds": round(busy),
                    **{k: round(v, 4) for k, v in scores.items()},
                    "levels": [round(r["level"], 3) for r in levels],
                    "nats": [round(r["loss"], 4) for r in levels],
                    "options": {**args.options, **args.compile},
                    "backend": BACKEND,
                    "commit": commit(),
                }
            )


if __name__ == "__main__":
    main()
