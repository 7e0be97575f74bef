"""The options of the program, the same ones for all systems."""

import argparse
from pathlib import Path

from keras_dblocks.applications.images.sizes import MOST_PATCHES

from .arguments import number

TRAIN = """\
Trains {name} block by block, or a twin by backpropagation; prints the test
metrics and saves the model, and each block in a file of its own.

commands:
  train     trains one preset in a folder of its own (the default)
{other}"""
OTHER = {
    "generate": """\
  generate  generates {examples} with a saved model: `generate --help`
""",
    "demo": """\
  demo      trains DiffusionBlocks and both twins, and compares them in a table
            and a picture: `demo --help`
""",
}
EXAMPLES = """\
examples:
  {prog} --preset {first} --epochs 5
  {prog} --preset {first} --data {file} --end-to-end
  {prog} --preset {last} --reference --output runs/paper
  {prog} --preset {last} --reference --output runs/paper --resume
  {prog} {other}

The environment variable KERAS_BACKEND chooses the backend: jax, tensorflow or
torch.

"""

EPOCHS = """\
passes of the end-to-end twin through the training data; DiffusionBlocks and
the layer-matched twin make num_blocks times as many, each through
1 / num_blocks of the layers, which is the same number of layer evaluations"""
STEPS_PER_EPOCH = """\
steps of an epoch (default: those of one pass through the training data)"""
TRAIN_EXAMPLES = "train on the first N {examples} only (default: on all)"
ON_POLICY = """\
share of a batch, from 0 to 1, whose noisy input is the output of the earlier
blocks (default: the model's; 0 with --reference)"""
LEARNING_RATE = "peak of the schedule, which is a warm-up and a cosine decay"
TOKENIZER = """\
symbols of the text: text8 has a to z and space, bytes all bytes of UTF-8
(default: %(default)s)"""
PATCH_SIZE = f"""\
side of a patch in pixels, which must divide that of the images (default: the
preset's; for images of your own of which it makes more than {MOST_PATCHES}
patches, the smallest that makes no more)"""
SAMPLES = """\
images drawn at the end and compared with the test images, 0 for none (default:
{default})"""
RESUME = """\
continue the run in the output folder from its last complete epoch, or start it
if there is none; with more --epochs than before the weights go on where they
stand, and the learning rate follows the schedule of the new length from
there"""

TENSORBOARD = """\
also write losses, learning rates and the drawn block, with accuracies after
each block or samples, for `tensorboard --logdir FOLDER`; needs the extra
tensorboard (default: not)"""
BLOCKS_ON_RAY = """\
train each block in a worker of Ray (pip install "keras_dblocks[ray]"), without
shared parts: independent with --on-policy 0, otherwise on what the newest files
of the earlier blocks hand over; the output folder must be one that all machines
see"""


def parse(model_class, system, prog, argv):
    """Parses the command line.

    Args:
        model_class: subclass of `DiffusionBlocks` with `presets`.
        system: its `System`.
        prog: string, the command that runs the program.
        argv: list of strings.

    Returns:
        `argparse.Namespace`, whose `command` is the name of the command.
    """
    if not argv or argv[0].startswith("-"):
        argv = ["train", *argv]
    return make_parser(model_class, system, prog).parse_args(argv)


def make_parser(model_class, system, prog):
    """Makes the parser of the program; see `parse`."""
    parser = argparse.ArgumentParser(prog=prog)
    commands = parser.add_subparsers(dest="command", required=True)
    name, run_class = model_class.__name__, system.run_class
    examples = run_class.examples
    presets = model_class.presets
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    _, other = system.commands
    text = "generate --model model.keras" if system.generate else "demo"
    train = commands.add_parser(
        "train",
        usage=f"{prog} [{' | '.join(system.commands)}] [options]",
        description=TRAIN.format(
            name=name, other=OTHER[other].format(examples=examples)
        ),
        epilog=EXAMPLES.format(
            prog=prog,
            first=next(iter(presets)),
            last=next(reversed(presets)),
            file=run_class.example_file,
            other=text,
        )
        + describe_presets(presets),
        **style,
    )
    add_training_options(train, presets, run_class)
    add_run_options(train)
    if system.generate:
        text = f"Generates {examples} with a saved model or its saved blocks."
        made = commands.add_parser("generate", description=text)
        system.generate.add_options(made, model_class)
    else:
        text = (
            f"Trains {name} in blocks and both twins, and compares them in a "
            "table and a picture."
        )
        demo = commands.add_parser(
            "demo",
            description=text,
            epilog=describe_presets(presets),
            **style,
        )
        add_training_options(demo, presets, run_class)
        text = "folder of its files (default: runs/PRESET)"
        demo.add_argument("--output", metavar="FOLDER", type=Path, help=text)
    return parser


def describe_presets(presets):
    """Returns a list of the presets for the end of the help text."""
    lines = [
        f"  {name}: {preset['description']}, {preset['training']['epochs']} "
        f"epochs of batches of {preset['training']['batch_size']}"
        for name, preset in presets.items()
    ]
    return "\n".join(["presets:", *lines])


def add_training_options(parser, presets, run_class):
    """Adds the options of sizes, recipe and data.

    Args:
        parser: `argparse.ArgumentParser`.
        presets: dict of presets by name; the first is the default.
        run_class: subclass of `Run`.
    """
    add = parser.add_argument
    text = "sizes and recipe, see below (default: %(default)s)"
    first = next(iter(presets))
    add("--preset", choices=presets, default=first, metavar="NAME", help=text)
    text = "use the paper's settings wherever ours differ (default: ours)"
    add("--reference", action="store_true", help=text)
    count, examples = number(int, 1), run_class.examples
    for option, metavar, kind, text in (
        ("--data", "NAME", str, run_class.data_help),
        ("--epochs", "K", count, EPOCHS),
        ("--batch-size", "N", count, f"{examples} per step"),
        ("--learning-rate", "X", number(float, 0), LEARNING_RATE),
        ("--num-layers", "N", count, "layers of the whole network"),
        ("--num-blocks", "N", count, "blocks into which they are divided"),
    ):
        text = f"{text} (default: the preset's)"
        add(option, metavar=metavar, type=kind, help=text)
    add("--steps-per-epoch", metavar="N", type=count, help=STEPS_PER_EPOCH)
    text = TRAIN_EXAMPLES.format(examples=examples)
    add("--train-examples", metavar="N", type=count, help=text)
    add("--on-policy", metavar="X", type=number(float, 0, 1), help=ON_POLICY)
    if run_class.has_patches:
        add("--patch-size", metavar="N", type=count, help=PATCH_SIZE)
    if run_class.num_samples is not None:
        text = SAMPLES.format(default=run_class.num_samples)
        add("--samples", metavar="N", type=number(int, 0), help=text)
    if run_class.tokenizers:
        names = run_class.tokenizers
        add("--tokenizer", choices=names, default=names[0], help=TOKENIZER)
    text = "seed of weights, data order and noise (default: %(default)s)"
    add("--seed", metavar="N", type=number(int, 0), default=0, help=text)


def add_run_options(parser):
    """Adds the options that say which run is trained, and where."""
    parser.set_defaults(row="blocks")
    group = parser.add_mutually_exclusive_group()
    for option, text in (
        ("--end-to-end", "train the twin: all layers by backpropagation"),
        ("--layer-matched", "train a twin that is only as deep as one block"),
    ):
        row = option[2:].replace("-", "_")
        text = f"{text} (default: DiffusionBlocks)"
        group.add_argument(
            option, action="store_const", dest="row", const=row, help=text
        )
    add = parser.add_argument
    text = "folder of the run (default: runs/PRESET-ROW-seedN)"
    add("--output", metavar="FOLDER", type=Path, help=text)
    text = f"{RESUME} (default: a new run)"
    add("--resume", action="store_true", help=text)
    text = f"{BLOCKS_ON_RAY} (default: one process)"
    add("--blocks-on-ray", action="store_true", help=text)
    text = "Ray cluster to use (default: one of this machine's own)"
    add("--address", metavar="ADDRESS", help=text)
    text = "blocks trained at once (default: as many as have room)"
    add("--workers", metavar="N", type=number(int, 1), help=text)
    add("--tensorboard", action="store_true", help=TENSORBOARD)
