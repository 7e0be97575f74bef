"""The command line: trains a preset, or shows the method in minutes."""

import dataclasses
import sys
from pathlib import Path

from keras_dblocks.applications.data import DataUnavailable, load_images
from keras_dblocks.applications.images.latents import load_latent_data

from .arguments import make_parser
from .demo import demo
from .run import ROWS, Run
from .train import claim, train


def main(model_class, argv=None, run_class=Run, more=None):
    """Runs the program.

    Args:
        model_class: subclass of `DiffusionBlocks` for images, with `presets`.
        argv: list of strings, or None for the command line's.
        run_class: subclass of `Run`; only `Run` itself has a demo.
        more: string, a further command and what it does, for `--help`.

    Returns:
        Exit status: 0, or 2 for settings that do not fit and data that
        cannot be had. Arguments that cannot be read exit with 2.
    """
    package = model_class.__module__.rpartition(".")[0]
    presets = model_class.presets
    parser = make_parser(
        model_class.__name__, f"python -m {package}", presets, more
    )
    args = parser.parse_args(argv)
    is_demo = args.command == "demo"
    name = f"{args.preset}-{args.row.replace('_', '-')}-seed{args.seed}"
    folder = args.output or Path("runs", args.preset if is_demo else name)
    try:
        runs = _make_runs(
            run_class, model_class, args, ROWS if is_demo else [args.row]
        )
        if not is_demo:
            claim(folder, runs[args.row].settings(), args.resume)
    except (DataUnavailable, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if is_demo:
        demo(runs, folder)
    else:
        train(runs[args.row], folder)
    return 0


def _make_runs(run_class, model_class, args, rows):
    preset = model_class.presets[args.preset]
    recipe = dict(preset["training"])
    if args.reference:
        recipe.update(preset.get("reference_training", {}))
    chosen = ("data", "epochs", "batch_size", "learning_rate")
    recipe.update(_given(args, chosen))
    latents = str(recipe["data"]).endswith(".npy")
    data = (load_latent_data if latents else load_images)(recipe["data"])
    data = dataclasses.replace(
        data,
        x_train=data.x_train[: args.train_images],
        y_train=data.y_train[: args.train_images],
    )
    config = {
        **preset["config"],
        **_given(args, ("num_layers", "num_blocks")),
        "image_size": data.x_train.shape[1],
        "channels": data.x_train.shape[-1],
        "num_classes": data.num_classes,
        "reference": args.reference,
        "seed": args.seed,
    }
    share = "auto" if args.on_policy is None else args.on_policy
    return {
        row: run_class(model_class, config, recipe, data, row, share)
        for row in rows
    }


def _given(args, names):
    values = {name: getattr(args, name) for name in names}
    return {name: v for name, v in values.items() if v is not None}
