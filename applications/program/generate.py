"""What the command `generate` has in common for images and for text."""

import inspect
from pathlib import Path

import keras

from keras_dblocks.presets import BLOCK_FILE

from .arguments import number
from .folder import make_folder

MODEL = """\
folder of a run, its model.keras, or the files of all blocks in their
order{more}"""


def add_options(parser, model_class, output, default=None, more=""):
    """Adds the options that mean the same for images and for text.

    Args:
        parser: `argparse.ArgumentParser`.
        model_class: subclass of `DiffusionBlocks`.
        output: string, what is written to the file of `--output`.
        default: path of that file, or None.
        more: string, what else is said of the files of blocks.
    """
    add = parser.add_argument
    add(
        "--model",
        metavar="FILE",
        nargs="+",
        type=Path,
        required=True,
        help=MODEL.format(more=more),
    )
    known = inspect.signature(model_class.generate).parameters
    steps = known["num_steps"].default
    text = (
        "steps of the sampler, calls of the denoiser in most of them (default: "
        f"{steps or 'as many as the model has'})"
    )
    add("--num-steps", metavar="N", type=number(int, 1), help=text)
    text = "seed of what is drawn (default: %(default)s)"
    add("--seed", metavar="N", type=number(int, 0), default=0, help=text)
    text = f"{output} (default: {default or 'none, they are printed'})"
    add("--output", metavar="FILE", type=Path, default=default, help=text)
    if "return_trajectory" in known:
        text = (
            "picture of the first sample on its way through the blocks "
            "(default: none)"
        )
        add("--trajectory", metavar="FILE", type=Path, help=text)


def check_outputs(args):
    """Makes the folders of the files to be written, before the long work."""
    for path in (args.output, getattr(args, "trajectory", None)):
        if path is not None:
            make_folder(path.parent)


def files_of(paths):
    """The file of a model or those of its blocks, for what `--model` names."""
    folder = paths[0]
    if len(paths) > 1 or not folder.is_dir():
        return paths
    if (folder / "model.keras").is_file():
        return [folder / "model.keras"]
    blocks = folder.glob(BLOCK_FILE.format("[0-9]*"))
    blocks = sorted(blocks, key=lambda file: (len(file.name), file.name))
    if not blocks:
        raise ValueError(
            "A folder must hold model.keras or block_0.keras, block_1.keras "
            f"and so on. Received: {folder} without either. Pass the folder "
            "of a run that has ended."
        )
    return blocks


def load(path, kind, name):
    """Loads a saved model that generates.

    Args:
        path: path of the `model.keras` of a run.
        kind: class of which the model must be an instance.
        name: string, what the file must hold.
    """
    model = keras.saving.load_model(path, compile=False)
    if not isinstance(model, kind):
        raise ValueError(
            f"The file must hold a {name}. "
            f"Received: {path} with a {type(model).__name__}. "
            "Pass the `model.keras` of a run."
        )
    return model
