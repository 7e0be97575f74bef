"""Command-line arguments of the training programs."""

import argparse
import sys
from pathlib import Path

DESCRIPTION = """\
Trains {name} block by block, or a twin by backpropagation; prints the test
metrics and saves the model, and each block in a file of its own.

  train     trains one preset in a folder of its own (the default)
{more}"""

DEMO = """\
  demo      trains DiffusionBlocks with our and with the paper's settings and
            both twins, and compares them in a table and a picture; the
            default output folder is runs/PRESET
"""

EXAMPLES = """\
examples:
{demo}\
  %(prog)s --preset {first} --epochs 5
  %(prog)s --preset {first} --data my_images.npz --end-to-end
  %(prog)s --preset {last} --reference --output runs/paper
  %(prog)s --preset {last} --reference --output runs/paper --resume

The environment variable KERAS_BACKEND chooses the backend: jax, tensorflow or
torch.

"""

DATA = """\
digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, an .npz file with
x_train, y_train, x_test, y_test, or an .npy file of latents (see
keras_dblocks.applications.images.latents); the size of the images and the
number of classes follow from the data"""
EPOCHS = """\
epochs of the end-to-end twin; DiffusionBlocks and the layer-matched twin run
num_blocks times as many, each through 1 / num_blocks of the layers, which is
the same number of layer evaluations"""
ON_POLICY = """\
share of a batch, from 0 to 1, whose noisy input is the output of the earlier
blocks (default: the share that measured best; 0 with --reference)"""
LEARNING_RATE = "peak of the schedule, which is a warm-up and a cosine decay"
RESUME = """\
continue the run in the output folder from its last complete epoch, or start it
if there is none"""


def make_parser(name, prog, presets, more=None):
    """Makes the parser of a program that trains on images.

    Args:
        name: string, the name of the model.
        prog: string, the command that runs the program.
        presets: dict of presets by name.
        more: string, the description of a further command, which another
            program runs. A program without one has the command `demo`.

    Returns:
        `argparse.ArgumentParser`.
    """
    commands = ["train"] if more else ["train", "demo"]
    examples = EXAMPLES.format(
        first=next(iter(presets)),
        last=next(reversed(presets)),
        demo="" if more else "  %(prog)s demo\n",
    )
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [{' | '.join(commands)}] [options]",
        description=DESCRIPTION.format(name=name, more=more or DEMO),
        epilog=examples + describe_presets(presets),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=commands, default="train", help="above")
    add_training_options(parser, presets, "images")
    add("--data", metavar="NAME", help=f"{DATA} (default: the preset's)")
    text = "train on the first N images only (default: on all)"
    add("--train-images", metavar="N", type=number(int, 1), help=text)
    add("--on-policy", metavar="X", type=number(float, 0, 1), help=ON_POLICY)
    return parser


def describe_presets(presets):
    """Returns a list of the presets for the end of the help text."""
    lines = [
        f"  {name}: {preset['description']}, {preset['training']['epochs']} "
        f"epochs of batches of {preset['training']['batch_size']}"
        for name, preset in presets.items()
    ]
    return "\n".join(["presets:", *lines])


def add_training_options(parser, presets, examples):
    """Adds the options that all training programs have.

    Args:
        parser: `argparse.ArgumentParser`.
        presets: dict of presets by name; the first is the default.
        examples: string, what a batch consists of, such as "images".
    """
    parser.set_defaults(row="blocks")
    add = parser.add_argument
    text = "sizes and recipe, see below (default: %(default)s)"
    first = next(iter(presets))
    add("--preset", choices=presets, default=first, metavar="NAME", help=text)
    count = number(int, 1)
    for option, metavar, kind, text in (
        ("--epochs", "K", count, EPOCHS),
        ("--batch-size", "N", count, f"{examples} per step"),
        ("--learning-rate", "X", number(float, 0), LEARNING_RATE),
        ("--num-layers", "N", count, "layers of the whole network"),
        ("--num-blocks", "N", count, "blocks into which they are divided"),
    ):
        text = f"{text} (default: the preset's)"
        add(option, metavar=metavar, type=kind, help=text)
    text = "use the paper's settings wherever ours differ"
    add("--reference", action="store_true", help=text)
    group = parser.add_mutually_exclusive_group()
    for option, text in (
        ("--end-to-end", "train the twin: all layers by backpropagation"),
        ("--layer-matched", "train a twin that is only as deep as one block"),
    ):
        row = option[2:].replace("-", "_")
        group.add_argument(
            option, action="store_const", dest="row", const=row, help=text
        )
    text = "seed of weights, data order and noise (default: %(default)s)"
    add("--seed", metavar="N", type=number(int, 0), default=0, help=text)
    text = "folder of the run (default: runs/PRESET-ROW-seedN)"
    add("--output", metavar="FOLDER", type=Path, help=text)
    add("--resume", action="store_true", help=RESUME)


def number(kind, low, high=float("inf")):
    """Returns a function that parses a number from `low` to `high`.

    Args:
        kind: type of the number, `int` or `float`.
    """

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            limits = f"from {low} to {high}, not {text}"
            raise argparse.ArgumentTypeError(f"a number {limits}")
        return value

    parse.__name__ = kind.__name__  # for argparse's message
    return parse


def given(args, names):
    """Returns a dict of those arguments that are not None."""
    values = {name: getattr(args, name) for name in names}
    return {name: v for name, v in values.items() if v is not None}


def make_config(args, preset):
    """Returns the constructor keywords of a run, without those of its data."""
    return {
        **preset["config"],
        **given(args, ("num_layers", "num_blocks")),
        "reference": args.reference,
        "seed": args.seed,
    }


def make_recipe(args, preset):
    """Returns the recipe of a run: the preset's, changed by the arguments."""
    changed = preset.get("reference_training", {}) if args.reference else {}
    options = ("data", "epochs", "batch_size", "learning_rate")
    return {**preset["training"], **changed, **given(args, options)}


def folder_of(args):
    """Returns the folder of a run."""
    name = f"{args.preset}-{args.row.replace('_', '-')}-seed{args.seed}"
    return args.output or Path("runs", name)


def print_error(error):
    """Prints an error on one line, and returns the exit status 2."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return 2
