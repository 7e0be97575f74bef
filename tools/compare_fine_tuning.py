"""Tunes a language model on another text: as a whole, in blocks, with LoRA.

The model is a file that `tools/compare_text.py --rows end_to_end --folder`
wrote. Each row begins with it, takes `--steps` steps on `--data`, and prints a
line of JSON: nats a token of the new text's test part before and after, those
of the old text after, and processor seconds of `fit`.

    KERAS_BACKEND=jax python tools/compare_fine_tuning.py \
        --model models/end_to_end-1.keras --old austen.txt \
        --data shakespeare.txt --rows all exact lora --learning-rates 5e-4 1e-3
"""

import argparse
import json
import time

import keras
from steps import BACKEND, print_line

import keras_dblocks
from keras_dblocks import compat
from keras_dblocks.applications.data import RandomChunks, chunks, load_text
from keras_dblocks.applications.program.optimizer import make_optimizer
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.recipes import TEXT

ROWS = ("all", "exact", "lora", "last")


def prepare(model, row, args):
    """What `fit` trains: the model, or the model in blocks."""
    if row == "lora":
        for layer in compat.sublayers(model):
            if isinstance(layer, keras.layers.Dense):
                layer.enable_lora(args.rank)
        for variable in model.trainable_variables:
            variable.trainable = "lora" in variable.path
    if row == "last":
        cut = keras_dblocks.cut(model, args.num_blocks, seed=args.seed)
        last = {id(v) for v in cut.blocks[-1].weights}
        for variable in model.trainable_variables:
            variable.trainable = id(variable) in last
    if row == "exact":
        return keras_dblocks.cut(model, args.num_blocks, seed=args.seed)
    return model


def train(row, rate, data, args):
    """Trains a row; returns the model, its trained weights and seconds."""
    keras.utils.set_random_seed(args.seed)
    model = keras.saving.load_model(args.model)
    trained = prepare(model, row, args)
    options = {}
    steps = round(args.steps * args.share_of_steps.get(row, 1.0))
    if row == "exact":
        options["steps_per_visit"] = args.steps_per_visit
    recipe = {**TEXT, "learning_rate": rate}
    optimizer = make_optimizer(recipe, steps, max(1, steps // 20))
    trained.compile(optimizer, **options)
    length = model.sequence_length
    batches = RandomChunks(
        data.train, length, args.batch_size, steps, args.seed
    )
    begin = time.process_time()
    trained.fit(batches, epochs=1, verbose=0)
    return model, steps, time.process_time() - begin


def main():
    """Trains and evaluates the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", required=True)
    add("--old", required=True, help="the text it was trained on")
    add("--data", required=True, help="the text it is tuned on")
    add("--tokenizer", default="bytes")
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add("--learning-rates", type=float, nargs="+", default=[1e-3])
    add("--steps", type=int, default=1500)
    add("--batch-size", type=int, default=32)
    add("--num-blocks", type=int, default=3)
    add("--steps-per-visit", type=int, default=20)
    add("--rank", type=int, default=8)
    add("--share-of-steps", type=json.loads, default={})
    add("--test-sequences", type=int, default=1000)
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    data = load_text(args.data, args.tokenizer)
    old = load_text(args.old, args.tokenizer)
    model = keras.saving.load_model(args.model)
    tests = {
        name: chunks(text.test, model.sequence_length)[: args.test_sequences]
        for name, text in (("new", data), ("old", old))
    }

    def scores(model):
        return {
            f"{name}_text": round(
                model.evaluate(test, return_dict=True, batch_size=64)[
                    "cross_entropy"
                ],
                4,
            )
            for name, test in tests.items()
        }

    common = {"seed": args.seed, "backend": BACKEND, "commit": commit()}
    print_line({"row": "before", **scores(model), **common})
    for row in args.rows:
        for rate in args.learning_rates:
            model, steps, busy = train(row, rate, data, args)
            result = {"row": row, "learning_rate": rate, "steps": steps}
            result["cpu_seconds"] = round(busy)
            print_line({**result, **scores(model), **common})


if __name__ == "__main__":
    main()
