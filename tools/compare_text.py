"""Trains and evaluates the rows of a text system's table of results.

All rows take the same number of layer evaluations. One block takes K steps
through all layers. B blocks, including the model from which they start, and
the layer-matched model take B * K steps through 1 / B of the layers. The tool
prints one line of JSON for each row and seed, with the metrics that `evaluate`
returns for the test text:

    KERAS_BACKEND=torch python tools/compare_text.py --application mdm \
        --data austen.txt --rows end_to_end layer_matched blocks --seeds 0 1
"""

import argparse
import json
import time
from pathlib import Path

from steps import BACKEND, print_line

from keras_dblocks.applications import MDM, ARTransformer, RecurrentDepth
from keras_dblocks.applications.data import chunks, load_text
from keras_dblocks.applications.program.curriculum_run import CurriculumRun
from keras_dblocks.applications.program.record import commit
from keras_dblocks.applications.program.run import ROWS
from keras_dblocks.applications.recipes import TEXT

MODELS = {"mdm": MDM, "ar": ARTransformer, "recurrent": RecurrentDepth}
# K steps are divided into this number of epochs, of which a share trains the
# model from which the blocks start.
EPOCHS = 20


def make(args, data, row, seed):
    """Makes the `CurriculumRun` of a row."""
    sizes = {"num_layers": args.num_layers, "num_blocks": args.num_blocks}
    if args.application == "recurrent":
        sizes = {}  # the default numbers of layers
    config = {
        "vocabulary_size": data.vocabulary_size,
        "sequence_length": args.sequence_length,
        **sizes,
        "hidden_dim": args.hidden_dim,
        "num_heads": args.num_heads,
        "seed": seed,
        **(args.options if row == "blocks" else {}),
    }
    recipe = {
        **TEXT,
        "epochs": EPOCHS,
        "steps_per_epoch": max(1, args.steps // EPOCHS),
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "warmup_steps": args.steps // 20,
        "start_share": 0 if args.in_sequence else args.start_share,
        "in_sequence": args.in_sequence,
        "on_policy": args.on_policy,
    }
    model_class = MODELS[args.application]
    return CurriculumRun(model_class, config, recipe, data, row)


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
    add("--start-share", type=float, default=0.75)
    add("--in-sequence", action="store_true", help="block after block")
    add("--on-policy", type=json.loads, default='"auto"')
    add(
        "--options",
        type=json.loads,
        default={},
        help="further keywords of our blocks, as JSON",
    )
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
    train = chunks(data.train, args.sequence_length)[: args.test_sequences]
    lines = {}
    for seed in args.seeds:
        for row in args.rows:
            run = make(args, data, row, seed)
            begin, busy = time.time(), time.process_time()
            steps = run.train_in_memory()
            seconds, busy = time.time() - begin, time.process_time() - busy
            scores = run.model.evaluate(test, return_dict=True, batch_size=64)
            seen = run.model.evaluate(train, return_dict=True, batch_size=64)
            name = next(iter(scores))
            result = {
                "row": row,
                "seed": seed,
                "steps": steps,
                "layers": run.num_layers,
                "seconds": round(seconds),
                "cpu_seconds": round(busy),
                **{k: round(v, 4) for k, v in scores.items()},
                f"train_{name}": round(seen[name], 4),
                "backend": BACKEND,
                "commit": commit(),
            }
            for steps in args.iterations:
                entropy = run.model.evaluate(test, num_steps=steps)[0]
                result[f"after_{steps}"] = round(entropy, 4)
                line = lines.setdefault(f"{row}, seed {seed}", [])
                line.append((steps, entropy))
            print_line(result)
            if args.folder:
                args.folder.mkdir(parents=True, exist_ok=True)
                run.model.save(args.folder / f"{row}-{seed}.keras")
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
