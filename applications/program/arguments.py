"""Arguments of the program."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Trains {name} block by block, or its end-to-end twin; prints how good it is and
saves the model, with a file per block.

  train  one preset, in a folder of its own (what is done if neither is named)
{more}"""

DEMO = """\
  demo   blocks, with our and with the paper's settings, and both twins,
         compared in a table and a picture
"""

EXAMPLES = """\
examples:
  %(prog)s --preset {first} --epochs 5
  %(prog)s --preset {first} --data my_images.npz --end-to-end
  %(prog)s --preset {last} --reference --output runs/paper
  %(prog)s --preset {last} --reference --output runs/paper --resume

KERAS_BACKEND=jax, tensorflow or torch chooses the backend.

presets:
"""

DATA = """\
digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, an .npz file with
x_train, y_train, x_test, y_test, or an .npy file of latents (see
keras_dblocks.applications.images.latents); the model follows its sizes"""
EPOCHS = """\
epochs of the end-to-end twin; blocks and the layer-matched twin run
num_blocks times as many through 1 / num_blocks of the layers: as many layer
evaluations"""
LEARNING_RATE = """\
top of the schedule, a warm-up and a cosine, which each block follows in its
own steps"""
ON_POLICY = """\
share of a batch, 0 to 1, whose noisy input is what the earlier blocks hand
over (default: as measured; 0 with --reference)"""
OUTPUT = """\
folder of the run (default: runs/PRESET-ROW-seedN; of the demo, runs/PRESET)"""
RESUME = """\
go on with the run in the output folder, from its last whole epoch; start it
if there is none"""


def make_parser(name, prog, presets, more=None):
    """`argparse.ArgumentParser` for the presets of a model.

    Args:
        name: string, the model's.
        prog: string, how the program is called.
        presets: dict of presets by name.
        more: description of another program's command in place of the demo.
    """
    first, last = next(iter(presets)), next(reversed(presets))
    lines = [
        f"  {name}: {preset['description']}, {preset['training']['epochs']} "
        f"epochs of batches of {preset['training']['batch_size']}"
        for name, preset in presets.items()
    ]
    words = {"name": name, "first": first, "last": last, "more": more or DEMO}
    examples = EXAMPLES
    if not more:
        examples = EXAMPLES.replace(":\n", ":\n  %(prog)s demo\n", 1)
    commands = ["train"] if more else ["train", "demo"]
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [{' | '.join(commands)}] [options]",
        description=DESCRIPTION.format(**words),
        epilog=examples.format(**words) + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(row="blocks")
    add = parser.add_argument
    add("command", nargs="?", choices=commands, default="train", help="above")
    text = "sizes and recipe, see below (default: %(default)s)"
    add("--preset", choices=presets, default=first, metavar="NAME", help=text)
    count, level = between(int, 1), between(float, 0)
    for option, metavar, kind, text in (
        ("--data", "NAME", str, DATA),
        ("--epochs", "K", count, EPOCHS),
        ("--batch-size", "N", count, "images a step"),
        ("--learning-rate", "X", level, LEARNING_RATE),
        ("--num-layers", "N", count, "layers of the whole network"),
        ("--num-blocks", "N", count, "blocks they are cut into"),
    ):
        text = f"{text} (default: the preset's)"
        add(option, metavar=metavar, type=kind, help=text)
    text = "train on the first N images alone (default: on all)"
    add("--train-images", metavar="N", type=count, help=text)
    share = between(float, 0, 1)
    add("--on-policy", metavar="X", type=share, help=ON_POLICY)
    text = "the paper's settings wherever ours differ"
    add("--reference", action="store_true", help=text)
    group = parser.add_mutually_exclusive_group()
    for option, text in (
        ("--end-to-end", "train the twin: all layers by backpropagation"),
        ("--layer-matched", "train a twin only as deep as one block"),
    ):
        row = option[2:].replace("-", "_")
        group.add_argument(
            option, action="store_const", dest="row", const=row, help=text
        )
    text = "of weights, data order and noise (default: %(default)s)"
    add("--seed", metavar="N", type=between(int, 0), default=0, help=text)
    add("--output", metavar="FOLDER", type=Path, help=OUTPUT)
    add("--resume", action="store_true", help=RESUME)
    return parser


def between(kind, low, high=float("inf")):
    """Reads a number of type `kind` from `low` to `high`."""

    def read(text):
        value = kind(text)
        if not low <= value <= high:
            limits = f"from {low} to {high}, not {text}"
            raise argparse.ArgumentTypeError(f"a number {limits}")
        return value

    read.__name__ = kind.__name__  # argparse says it of what is no number
    return read
