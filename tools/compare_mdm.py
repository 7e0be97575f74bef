"""Trains and scores MDM's rows of the results table.

Every row sees as many layer evaluations: one block takes K steps through all
layers; B blocks, and the model only as deep as one of them, take B * K steps
through 1 / B of them. Prints one JSON line a row and seed, with the bound on
the test text in bits per token:

    KERAS_BACKEND=torch python tools/compare_mdm.py --data austen.txt \
        --rows one matched ours --seeds 0 1
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path

import keras

from keras_dblocks.applications.data import RandomChunks, chunks, load_text
from keras_dblocks.applications.mdm import MDM


def make(args, row, seed, vocabulary_size):
    """Model of a row, and how many times K steps it takes."""
    common = {
        "vocabulary_size": vocabulary_size,
        "sequence_length": args.sequence_length,
        "num_layers": args.num_layers,
        "hidden_dim": args.hidden_dim,
        "num_heads": args.num_heads,
        "seed": seed,
        **args.options,
    }
    if row == "one":
        return MDM.end_to_end(**common), 1
    if row == "matched":
        layers = {"num_layers": args.num_layers // args.num_blocks}
        return MDM.end_to_end(**{**common, **layers}), args.num_blocks
    options = {"ours": {}, "paper": {"reference": True}}[row]
    blocks = {"num_blocks": args.num_blocks}
    return MDM(**{**common, **blocks, **options}), args.num_blocks


def train(args, data, row, seed):
    """Trains one row; returns the model, its steps and seconds."""
    random.seed(seed)  # initializers
    model, longer = make(args, row, seed, data.vocabulary_size)
    steps = args.steps * longer
    each = steps // model.num_blocks
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        each - each // 20,
        alpha=0.05,
        warmup_target=args.learning_rate,
        warmup_steps=each // 20,
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=0.03, global_clipnorm=1.0
    )
    model.compile(optimizer, block_order=args.block_order)
    batches = RandomChunks(
        data.train, args.sequence_length, args.batch_size, steps, seed
    )
    begin = time.time()
    model.fit(batches, shuffle=False, verbose=0)
    return model, steps, round(time.time() - begin)


def main():
    """Runs the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", default="python")
    add("--steps", type=int, default=1000, help="K")
    add("--batch-size", type=int, default=32)
    add("--sequence-length", type=int, default=128)
    add("--num-layers", type=int, default=6)
    add("--num-blocks", type=int, default=3)
    add("--hidden-dim", type=int, default=96)
    add("--num-heads", type=int, default=4)
    add("--learning-rate", type=float, default=2e-3)
    add("--block-order", type=json.loads, default='"uniform"')
    add("--options", type=json.loads, default={})
    add("--test-sequences", type=int, default=400)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--rows", nargs="+", default=["one", "matched", "ours"])
    add("--folder", type=Path, help="keep the models here")
    args = parser.parse_args()
    data = load_text(args.data)
    test = chunks(data.test, args.sequence_length)[: args.test_sequences]
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True)
    for row in args.rows:
        for seed in args.seeds:
            model, steps, seconds = train(args, data, row, seed)
            bound = model.evaluate(test, return_dict=True, batch_size=64)
            result = {
                "row": row,
                "seed": seed,
                "steps": steps,
                "seconds": seconds,
                **{name: round(value, 4) for name, value in bound.items()},
                "backend": keras.backend.backend(),
                "commit": commit.stdout.strip(),
            }
            print(json.dumps(result), flush=True)
            if args.folder:
                args.folder.mkdir(parents=True, exist_ok=True)
                model.save(args.folder / f"{row}-{seed}.keras")


if __name__ == "__main__":
    main()
