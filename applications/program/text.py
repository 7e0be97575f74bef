"""The program of text systems: trains a preset, prints samples, generates."""

import argparse
import inspect
import random
import sys
from pathlib import Path

import keras

from keras_dblocks.applications.data import (
    DataUnavailable,
    RandomChunks,
    chunks,
    load_text,
)
from keras_dblocks.applications.data.text import TOKENIZERS
from keras_dblocks.models.assembly import copy_weights
from keras_dblocks.training.block_order import BlockOrder

from .arguments import between
from .run import ROWS, Run
from .train import claim, train

DATA = """\
python (text that ships with Python), text8, lm1b, or the path of a text file"""
# The blocks' second phase: its top learning rate is this share of the first's,
# and its chunks are others.
AFTER_START, OTHER_CHUNKS = 0.6, 2**20
EPOCHS = """\
epochs of one block; blocks and the layer-matched model run num_blocks times as
many through 1 / num_blocks of the layers: as many layer evaluations"""


class TextRun(Run):
    """One row of a text system's results.

    Args:
        model_class: subclass of `DiffusionBlocks` that generates tokens.
        config: dict, its constructor keywords, with `seed`.
        recipe: dict, `training` of a preset. `start_share` of our blocks'
            steps train a model as deep as one block on all noise levels, of
            which all blocks are copies then (`DiffusionBlocks.start_from`).
            Or `in_sequence`: blocks are trained one after the other, each
            from the last one's weights; one schedule goes over all of them.
        data: `TextData`.
        row: string, a key of `ROWS`.
    """

    metrics = ()

    def __init__(self, model_class, config, recipe, data, row="blocks"):
        random.seed(config["seed"])  # initializers
        self.config, self.recipe = config, recipe
        self.data, self.row = data, row
        self.in_blocks = row in ("blocks", "paper", "start")
        if row == "paper":
            self.config = config = {**config, "reference": True}
            self.recipe = recipe = {**recipe, "on_policy": "auto"}
        self.in_sequence = row == "blocks" and bool(recipe.get("in_sequence"))
        if self.in_sequence:  # or a later block would change an earlier one
            self.config = config = {**config, "sharing": "targets"}
        blocks = model_class(**config)
        self.epochs = recipe["epochs"]
        if row not in ("end_to_end", "start"):
            self.epochs *= blocks.num_blocks
        self.num_layers = len(blocks.partition.layers_of(0))
        if row == "end_to_end":
            self.num_layers = blocks.num_layers
        self.start = None
        share = recipe.get("start_share") if row == "blocks" else 0
        if share and blocks.num_blocks > 1:
            self.start = self._make_start(model_class, share)
            self.epochs -= self.start.epochs
        self.batches = RandomChunks(
            data.train,
            blocks.sequence_length,
            recipe["batch_size"],
            recipe.get("steps_per_epoch"),
            seed=config["seed"] + (OTHER_CHUNKS if self.start else 0),
        )
        self.num_steps = self.epochs * len(self.batches)
        self.model = blocks
        if not self.in_blocks:
            config = {**config, "num_layers": self.num_layers}
            self.model = model_class.end_to_end(**config)
        self.model.tokenizer = data.tokenizer
        self._compile(recipe.get("on_policy", "auto"))

    def _compile(self, on_policy):
        options = {"on_policy": on_policy} if self.in_blocks else {}
        self.model.compile(self._optimizer(), **options)
        if self.in_sequence:
            optimizers = self.model.optimizer.optimizers
            for block, optimizer in enumerate(optimizers):
                schedule = optimizer._learning_rate
                offset = block * self.num_steps // self.model.num_blocks
                optimizer.learning_rate = Continued(schedule, offset)

    def _make_start(self, model_class, share):
        one = {"num_layers": self.num_layers, "num_blocks": 1}
        config = {**self.config, **one, "layers_per_block": None}
        recipe = {
            **self.recipe,
            "epochs": min(max(1, round(share * self.epochs)), self.epochs - 1),
            "alpha": 0.5,  # its copies go on learning
        }
        return TextRun(model_class, config, recipe, self.data, "start")

    def _optimizer(self):
        recipe = self.recipe
        steps = self.num_steps
        if not self.in_sequence:
            steps //= getattr(self.model, "num_blocks", 1)
        warmup = max(2, steps) // (10 if self.start else 2)
        warmup = min(recipe["warmup_steps"], warmup)
        top = recipe["learning_rate"]
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(2, steps) - warmup,
            alpha=recipe["alpha"],
            warmup_target=AFTER_START * top if self.start else top,
            warmup_steps=warmup,
        )
        return keras.optimizers.AdamW(
            schedule,
            weight_decay=recipe["weight_decay"],
            global_clipnorm=recipe["clipnorm"],
        )

    def describe(self):
        what = {"start": "What blocks start from", **ROWS}[self.row]
        return (
            f"{what} on {len(self.data.train):,} tokens of "
            f"{self.data.name}: {self.epochs} epochs of {len(self.batches)} "
            f"steps, {self.num_layers} layers a step, "
            f"{self.num_steps * self.num_layers:,} layer evaluations."
        )

    def settings(self):
        return {**self.config, **self.recipe, "row": self.row}

    def validation_data(self):
        return chunks(self.data.validation, self.model.sequence_length)[:256]

    def prepare_fit(self, folder):
        """Trains what the blocks start from, unless a resumed run has."""
        if self.start is None:
            return
        path = folder / "start" / "model.keras"
        if not path.exists():
            claim(path.parent, self.start.settings(), resume=True)
            train(self.start, path.parent)
        start = keras.saving.load_model(path, compile=False)
        self.model.start_from(start)

    def fit(self, callbacks=(), **kwargs):
        if self.in_sequence:
            callbacks = [InSequence(self), *callbacks]
        return super().fit(callbacks, **kwargs)

    def train_quietly(self):
        """Trains in memory alone; the number of steps, the start's too."""
        before = 0
        if self.start is not None:
            before = self.start.train_quietly()
            self.model.start_from(self.start.model)
            self.start.model = None
        self.fit(verbose=0)
        return before + self.num_steps

    def callbacks(self, folder):
        return [Samples()]

    def results(self, folder):
        test = chunks(self.data.test, self.model.sequence_length)[:1000]
        result = self.model.evaluate(test, return_dict=True)
        return [f"{name}: {value:.4f}" for name, value in result.items()]


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Continued(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule from step `offset` on.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        offset: int.
    """

    def __init__(self, schedule, offset):
        self.schedule = schedule
        self.offset = offset

    def __call__(self, step):
        return self.schedule(keras.ops.cast(step, "float32") + self.offset)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "offset": self.offset}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["offset"])


class InSequence(keras.callbacks.Callback):
    """Trains block after block; each starts from the last one's weights.

    Args:
        run: `TextRun` of as many epochs for each block.
    """

    def __init__(self, run):
        super().__init__()
        self.each = run.epochs // run.model.num_blocks

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        index, first = divmod(epoch, self.each)
        model.block_order = BlockOrder(index, model.num_blocks)
        if index and not first:
            last, block = model.blocks[index - 1], model.blocks[index]
            copy_weights(last.weights, block.weights)


class Samples(keras.callbacks.Callback):
    """Prints a sample after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        (text,) = self.model.generate(num_samples=1, seed=epoch)
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
    text = "calls of the denoiser (default: the model's)"
    add("--num-steps", metavar="N", type=count, help=text)
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
    if not hasattr(model, "generate"):
        raise ValueError(
            f"The file must hold a {model_class.__name__} or its twin. "
            f"Received: {args.model} with a {type(model).__name__}. "
            "Pass the `model.keras` of a run."
        )
    if model.tokenizer is None:
        model.tokenizer = TOKENIZERS[args.tokenizer]()
    known = inspect.signature(model.generate).parameters
    options = _given(args, ("num_samples", "num_steps", "temperature"))
    options |= _given(args, ("top_p", "seed"))
    if args.prompt and "prompts" in known:
        options["prompts"] = [args.prompt]
    elif args.prompt:
        options["prompt"] = args.prompt
    if args.picture and "return_trajectory" not in known:
        raise ValueError(
            "A picture shows masks being filled in. Received: --picture for "
            f"a {type(model).__name__}. Leave it out."
        )
    if args.picture:
        options["return_trajectory"] = True
    texts = model.generate(**options)
    if args.picture:
        from .text_picture import save_unmasking

        texts, trajectory = texts
        save_unmasking(
            args.picture, trajectory, model.tokenizer, model.num_blocks
        )
    print("\n".join(texts))
    return 0


def _given(args, names):
    values = {name: getattr(args, name) for name in names}
    return {name: v for name, v in values.items() if v is not None}
