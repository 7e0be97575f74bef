"""Trains and evaluates the rows of a text system's table of results.

All rows are trained by `model.fit` alone, with the same number of layer
evaluations: the end-to-end twin takes K steps, the layer-matched twin and B
blocks B * K steps through 1 / B of the layers. The tool prints one line of JSON
for each row and seed, with the metrics that `evaluate` returns for the test
text:

    KERAS_BACKEND=torch python tools/compare_text.py --application mdm \
        --data austen.txt --rows end_to_end layer_matched blocks --seeds 0 1
"""

import argparse
import json
import time
from pathlib import Path

import keras
from steps import BACKEND, print_line

from keras_dblocks.applications import MDM, ARTransformer, RecurrentDepth
from keras_dblocks.applications.data import RandomChunks, chunks, load_text
from keras_dblocks.applications.program.optimizer import make_optimizer
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.program.run import ROWS
from keras_dblocks.applications.recipes import TEXT

MODELS = {"mdm": MDM, "ar": ARTransformer, "recurrent": RecurrentDepth}


def optimizer(args, steps):
    """The recipe's optimizer, with a warm-up of a twentieth of the steps."""
    recipe = {**TEXT, "learning_rate": args.learning_rate}
    return make_optimizer(recipe, steps, max(1, steps // 20))


def train(args, data, row, seed):
    """Trains a row; returns the model and its number of steps."""
    blocks = args.num_blocks
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": args.num_layers, "num_blocks": blocks}
    if args.application == "recurrent":
        sizes, blocks = {}, 1  # the default numbers of layers
    in_blocks = row in ("blocks", "paper")
    model = MODELS[args.application](
        vocabulary_size=data.vocabulary_size,
        sequence_length=args.sequence_length,
        hidden_dim=args.hidden_dim,
        num_heads=args.num_heads,
        seed=seed,
        **sizes,
        **({"reference": True} if row == "paper" else {}),
        **args.all_options,
        **(args.options if row == "blocks" else {}),
    )
    epochs = 1 if row == "end_to_end" else blocks
    steps = args.steps
    if not in_blocks:
        model = getattr(model, row)()
        steps *= epochs
    options = args.compile if row == "blocks" else {}
    model.compile(optimizer(args, steps), **options)
    batches = RandomChunks(
        data.train, args.sequence_length, args.batch_size, args.steps, seed
    )
    model.fit(batches, epochs=epochs, verbose=0)
    return model, epochs * args.steps


def main():
    """Trains and evaluates the rows that were requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--application", choices=list(MODELS), default="mdm")
    add("--data", default="python")
    add("--tokenizer", default="text8")
    add("--steps", type=int, default=1000, help="K")
    add("--batch-size", type=int, default=32)
    add("--sequence-length", type=int, default=128)
    add("--num-layers", type=int, default=6)
    add("--num-blocks", type=int, default=3)
    add("--hidden-dim", type=int, default=96)
    add("--num-heads", type=int, default=4)
    add("--learning-rate", type=float, default=2e-3)
    options = {"type": json.loads, "default": {}}
    add("--all-options", help="keywords of all rows, as JSON", **options)
    add("--options", help="keywords of the blocks, as JSON", **options)
    add("--compile", help="keywords of their `compile`, as JSON", **options)
    add("--test-sequences", type=int, default=400)
    text = "evaluate after these numbers of iterations too (recurrent)"
    add("--iterations", type=int, nargs="*", default=[], help=text)
    add(
        "--validation",
        action="store_true",
        help="evaluate on the validation text",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    add("--folder", type=Path, help="save the models in this folder")
    add("--plot", type=Path, help="picture of the cross-entropy by iterations")
    args = parser.parse_args()
    data = load_text(args.data, args.tokenizer)
    text = data.validation if args.validation else data.test
    test = chunks(text, args.sequence_length)[: args.test_sequences]
    first = chunks(data.train, args.sequence_length)[: args.test_sequences]
    lines = {}
    for seed in args.seeds:
        for row in args.rows:
            begin, busy = time.time(), time.process_time()
            model, steps = train(args, data, row, seed)
            seconds, busy = time.time() - begin, time.process_time() - busy
            scores = model.evaluate(test, return_dict=True, batch_size=64)
            seen = model.evaluate(first, return_dict=True, batch_size=64)
            name = next(iter(scores))
            result = {
                "row": row,
                "seed": seed,
                "steps": steps,
                "seconds": round(seconds),
                "cpu_seconds": round(busy),
                **{k: round(v, 4) for k, v in scores.items()},
                f"train_{name}": round(seen[name], 4),
                "options": {**args.all_options, **args.options, **args.compile},
                "backend": BACKEND,
                "commit": commit(),
            }
            for steps in args.iterations:
                entropy = model.evaluate(test, num_steps=steps)[0]
                result[f"after_{steps}"] = round(entropy, 4)
                line = lines.setdefault(f"{row}, seed {seed}", [])
                line.append((steps, entropy))
            print_line(result)
            if args.folder:
                args.folder.mkdir(parents=True, exist_ok=True)
                model.save(args.folder / f"{row}-{seed}.keras")
    if args.plot:
        save_plot(args.plot, lines)


def save_plot(path, lines):
    """Draws the cross-entropy by iterations, one line per row and seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("iterations")
    axes.set_ylabel("nats per token")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
