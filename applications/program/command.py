"""The program that trains on images: one preset, or the demo."""

import dataclasses
from pathlib import Path

from keras_dblocks.applications.data import DataUnavailable, load_images
from keras_dblocks.applications.images.latents import load_latent_data

from .arguments import (
    folder_of,
    make_config,
    make_parser,
    make_recipe,
    print_error,
)
from .demo import demo
from .run import ROWS, Run
from .train import claim, train


def main(model_class, argv=None, run_class=Run, more=None):
    """Runs the program.

    Args:
        model_class: subclass of `DiffusionBlocks` for images, with `presets`.
        argv: list of strings, or None for the command line's.
        run_class: subclass of `Run`. The demo supports `Run` only.
        more: string, the description of a further command for `--help`.

    Returns:
        Exit status: 0, or 2 for settings that do not fit together and data
        that are not available. Arguments that cannot be parsed raise
        `SystemExit` with status 2.
    """
    package = model_class.__module__.rpartition(".")[0]
    presets = model_class.presets
    parser = make_parser(
        model_class.__name__, f"python -m {package}", presets, more
    )
    args = parser.parse_args(argv)
    is_demo = args.command == "demo"
    folder = folder_of(args)
    if is_demo:
        folder = args.output or Path("runs", args.preset)
    try:
        runs = _make_runs(
            run_class, model_class, args, ROWS if is_demo else [args.row]
        )
        if not is_demo:
            claim(folder, runs[args.row].settings(), args.resume)
    except (DataUnavailable, ValueError) as error:
        return print_error(error)
    if is_demo:
        demo(runs, folder)
    else:
        train(runs[args.row], folder)
    return 0


def _make_runs(run_class, model_class, args, rows):
    preset = model_class.presets[args.preset]
    recipe = make_recipe(args, preset)
    latents = str(recipe["data"]).endswith(".npy")
    data = (load_latent_data if latents else load_images)(recipe["data"])
    data = dataclasses.replace(
        data,
        x_train=data.x_train[: args.train_images],
        y_train=data.y_train[: args.train_images],
    )
    config = {
        **make_config(args, preset),
        "image_size": data.x_train.shape[1],
        "channels": data.x_train.shape[-1],
        "num_classes": data.num_classes,
    }
    on_policy = "auto" if args.on_policy is None else args.on_policy
    return {
        row: run_class(model_class, config, recipe, data, row, on_policy)
        for row in rows
    }
