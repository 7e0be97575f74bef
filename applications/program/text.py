"""The program of text systems: trains a preset, prints samples, generates."""

import argparse
import random
import sys
from pathlib import Path

import keras

from keras_dblocks.applications.data import (
    ByteTokenizer,
    DataUnavailable,
    RandomChunks,
    Text8Tokenizer,
    chunks,
    load_text,
)

from .arguments import between
from .run import ROWS, Run
from .train import claim, train

TOKENIZERS = {"text8": Text8Tokenizer, "bytes": ByteTokenizer}
DATA = """\
python (text that ships with Python), text8, lm1b, or the path of a text file"""
EPOCHS = """\
epochs of one block; blocks and the layer-matched model run num_blocks times as
many through 1 / num_blocks of the layers: as many layer evaluations"""


class TextRun(Run):
    """One row of a text system's results; its twin is itself, one block.

    Args:
        model_class: subclass of `DiffusionBlocks` that generates tokens.
        config: dict, its constructor keywords, with `seed`.
        recipe: dict, `training` of a preset.
        data: `TextData`.
        row: string, a key of `ROWS`.
    """

    metrics = ()

    def __init__(self, model_class, config, recipe, data, row="blocks"):
        random.seed(config["seed"])  # initializers
        self.config, self.recipe = config, recipe
        self.data, self.row = data, row
        self.in_blocks = row in ("blocks", "paper")
        self.on_policy = "auto"
        if row == "paper":
            self.config = config = {**config, "reference": True}
        blocks = model_class(**config)
        self.batches = RandomChunks(
            data.train,
            blocks.sequence_length,
            recipe["batch_size"],
            seed=config["seed"],
        )
        longer = 1 if row == "end_to_end" else blocks.num_blocks
        self.epochs = recipe["epochs"] * longer
        self.num_steps = self.epochs * len(self.batches)
        self.num_layers = len(blocks.partition.layers_of(0))
        if row == "end_to_end":
            self.num_layers = blocks.num_layers
        self.model = blocks
        if not self.in_blocks:
            config = {**config, "num_layers": self.num_layers}
            self.model = model_class.end_to_end(**config)
        self.model.tokenizer = data.tokenizer
        steps = max(2, self.num_steps // self.model.num_blocks)
        warmup = min(recipe["warmup_steps"], steps // 2)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            steps - warmup,
            alpha=recipe["alpha"],
            warmup_target=recipe["learning_rate"],
            warmup_steps=warmup,
        )
        self.model.compile(
            keras.optimizers.AdamW(
                schedule,
                weight_decay=recipe["weight_decay"],
                global_clipnorm=recipe["clipnorm"],
            )
        )

    def describe(self):
        return (
            f"{ROWS[self.row]} on {len(self.data.train):,} tokens of "
            f"{self.data.name}: {self.epochs} epochs of {len(self.batches)} "
            f"steps, {self.num_layers} of {self.config['num_layers']} layers a "
            f"step, {self.num_steps * self.num_layers:,} layer evaluations."
        )

    def settings(self):
        return {**self.config, **self.recipe, "row": self.row}

    def validation_data(self):
        return chunks(self.data.validation, self.model.sequence_length)[:256]

    def callbacks(self, folder):
        return [Samples()]

    def results(self, folder):
        test = chunks(self.data.test, self.model.sequence_length)[:1000]
        result = self.model.evaluate(test, return_dict=True)
        return [f"{name}: {value:.4f}" for name, value in result.items()]


class Samples(keras.callbacks.Callback):
    """Prints a sample after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        (text,) = self.model.generate(1, num_steps=32, seed=epoch)
        print(f"\nsample: {text!r}")


def main(model_class, argv=None):
    """Runs the program.

    Args:
        model_class: subclass of `DiffusionBlocks` on tokens, with `presets`.
        argv: list of strings, or None for the command line's.

    Returns:
        Exit status: 0, or 2 for settings that do not fit and data that
        cannot be had. Arguments that cannot be read exit with 2.
    """
    prog = f"python -m {model_class.__module__.rpartition('.')[0]}"
    presets = model_class.presets
    parser = _make_parser(model_class.__name__, prog, presets)
    args = parser.parse_args(argv)
    try:
        if args.command == "generate":
            return _generate(model_class, args)
        preset = presets[args.preset]
        recipe = {**preset["training"], **_given(args, RECIPE)}
        data = load_text(args.text or recipe["data"], args.tokenizer)
        config = {
            **preset["config"],
            **_given(args, ("num_layers", "num_blocks")),
            "vocabulary_size": data.vocabulary_size,
            "reference": args.reference,
            "seed": args.seed,
        }
        run = TextRun(model_class, config, recipe, data, args.row)
        name = f"{args.preset}-{args.row.replace('_', '-')}-seed{args.seed}"
        folder = args.output or Path("runs", name)
        claim(folder, run.settings(), args.resume)
    except (DataUnavailable, ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    train(run, folder)
    return 0


RECIPE = ("data", "epochs", "batch_size", "learning_rate")


def _make_parser(name, prog, presets):
    lines = [f"  {n}: {p['description']}" for n, p in presets.items()]
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Trains {name} block by block, or generates from it.",
        epilog="\n".join(["presets:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(row="blocks")
    add = parser.add_argument
    text = "train a preset (the default), or text from a saved model"
    commands = ["train", "generate"]
    add("command", nargs="?", choices=commands, default="train", help=text)
    first = next(iter(presets))
    text = "sizes and recipe, see below (default: %(default)s)"
    add("--preset", choices=presets, default=first, metavar="NAME", help=text)
    add("--data", metavar="NAME", help=f"{DATA} (default: the preset's)")
    add("--text", metavar="FILE", help="the same as --data with a path")
    text = "symbols of the text (default: %(default)s, a to z and space)"
    add("--tokenizer", choices=[*TOKENIZERS], default="text8", help=text)
    count, level = between(int, 1), between(float, 0)
    for option, metavar, kind, text in (
        ("--epochs", "K", count, EPOCHS),
        ("--batch-size", "N", count, "sequences a step"),
        ("--learning-rate", "X", level, "top of the schedule"),
        ("--num-layers", "N", count, "layers of the whole network"),
        ("--num-blocks", "N", count, "blocks they are cut into"),
    ):
        text = f"{text} (default: the preset's)"
        add(option, metavar=metavar, type=kind, help=text)
    text = "the paper's settings wherever ours differ"
    add("--reference", action="store_true", help=text)
    group = parser.add_mutually_exclusive_group()
    for row, text in (
        ("end_to_end", "train one block: all layers by backpropagation"),
        ("layer_matched", "train a model only as deep as one block"),
    ):
        option = "--" + row.replace("_", "-")
        group.add_argument(
            option, action="store_const", dest="row", const=row, help=text
        )
    add("--seed", metavar="N", type=between(int, 0), default=0)
    text = "folder of the run (default: runs/PRESET-ROW-seedN)"
    add("--output", metavar="FOLDER", type=Path, help=text)
    add("--resume", action="store_true", help="go on with the run there")
    group = parser.add_argument_group("generate")
    add = group.add_argument
    add("--model", metavar="FILE", type=Path, help="model.keras of a run")
    add("--num-samples", metavar="N", type=count, default=4)
    add("--num-steps", metavar="N", type=count, default=64)
    add("--prompt", metavar="TEXT", help="how each sample begins")
    add("--temperature", metavar="X", type=level, default=1.0)
    add("--top-p", metavar="X", type=between(float, 0, 1), default=1.0)
    text = "picture of the first sample, coloured by block"
    add("--picture", metavar="FILE", type=Path, help=text)
    return parser


def _generate(model_class, args):
    if args.model is None:
        raise ValueError(
            "`generate` needs a saved model. Received: none. "
            "Pass --model model.keras."
        )
    model = keras.saving.load_model(args.model, compile=False)
    if not isinstance(model, model_class):
        raise ValueError(
            f"The file must hold a {model_class.__name__}. Received: "
            f"{args.model} with a {type(model).__name__}. "
            "Pass the `model.keras` of a run."
        )
    if model.tokenizer is None:
        model.tokenizer = TOKENIZERS[args.tokenizer]()
    texts, trajectory = model.generate(
        args.num_samples,
        args.num_steps,
        prompt=args.prompt,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        return_trajectory=True,
    )
    print("\n".join(texts))
    if args.picture:
        from .text_picture import save_unmasking

        save_unmasking(
            args.picture, trajectory, model.tokenizer, model.num_blocks
        )
    return 0


def _given(args, names):
    values = {name: getattr(args, name) for name in names}
    return {name: v for name, v in values.items() if v is not None}
