"""Trains and evaluates rows on text where depth helps, by `model.fit` alone.

All rows take the same number of layer evaluations: the end-to-end twin K
steps, the layer-matched twin and B blocks B * K steps through 1 / B of the
layers. It prints one line of JSON for each row and seed:

    KERAS_BACKEND=jax NPROC=1 taskset -c 0 python tools/compare_depth.py \
        --data austen.txt --rows end_to_end layer_matched blocks --seeds 0 1
"""

import argparse
import json
import time

import keras
from steps import BACKEND, commit, print_line

from keras_dblocks.applications import MDM, ARTransformer
from keras_dblocks.applications.data import RandomChunks, chunks, load_text

MODELS = {"mdm": MDM, "ar": ARTransformer}


def optimizer(args, steps):
    """AdamW with a warm-up of a twentieth and a cosine decay to a twentieth."""
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup),
        alpha=0.05,
        warmup_target=args.learning_rate,
        warmup_steps=warmup,
    )
    return keras.optimizers.AdamW(
        schedule, weight_decay=0.03, global_clipnorm=1.0
    )


def train(args, data, row, seed):
    """Trains a row; returns the model and its number of steps."""
    blocks = args.num_blocks
    keras.utils.set_random_seed(seed)
    model = MODELS[args.application](
        vocabulary_size=data.vocabulary_size,
        sequence_length=args.sequence_length,
        num_layers=args.num_layers,
        num_blocks=blocks,
        hidden_dim=args.hidden_dim,
        num_heads=args.num_heads,
        seed=seed,
        **(args.options if row == "blocks" else {}),
    )
    epochs = 1 if row == "end_to_end" else blocks
    steps = args.steps
    if row == "end_to_end":
        model = model.end_to_end()
    elif row == "layer_matched":
        model, steps = model.layer_matched(), blocks * args.steps
    if row == "blocks":
        model.compile(optimizer(args, steps), **args.compile)
    else:
        model.compile(optimizer(args, steps))
    batches = RandomChunks(
        data.train, args.sequence_length, args.batch_size, args.steps, seed
    )
    model.fit(batches, epochs=epochs, verbose=0)
    return model, epochs * args.steps


def main():
    """Trains and evaluates the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--application", choices=list(MODELS), default="ar")
    add("--data", required=True, help="path of a text")
    add("--tokenizer", default="bytes")
    add("--steps", type=int, default=5000, help="K, steps of the twin")
    add("--batch-size", type=int, default=32)
    add("--sequence-length", type=int, default=64)
    add("--num-layers", type=int, default=6)
    add("--num-blocks", type=int, default=3)
    add("--hidden-dim", type=int, default=64)
    add("--num-heads", type=int, default=4)
    add("--learning-rate", type=float, default=2e-3)
    options = {"type": json.loads, "default": {}}
    add("--options", help="keywords of the blocks, as JSON", **options)
    add("--compile", help="keywords of their `compile`, as JSON", **options)
    add("--test-sequences", type=int, default=2000)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    rows = ["end_to_end", "layer_matched", "blocks"]
    add("--rows", nargs="+", choices=rows, default=rows)
    args = parser.parse_args()
    data = load_text(args.data, args.tokenizer)
    test = chunks(data.test, args.sequence_length)[: args.test_sequences]
    for seed in args.seeds:
        for row in args.rows:
            begin, busy = time.time(), time.process_time()
            model, steps = train(args, data, row, seed)
            seconds, busy = time.time() - begin, time.process_time() - busy
            scores = model.evaluate(test, return_dict=True, batch_size=100)
            print_line(
                {
                    "row": row,
                    "seed": seed,
                    "steps": steps,
                    **{k: round(v, 4) for k, v in scores.items()},
                    "seconds": round(seconds),
                    "cpu_seconds": round(busy),
                    "options": {**args.options, **args.compile},
                    "backend": BACKEND,
                    "commit": commit(),
                }
            )


if __name__ == "__main__":
    main()
