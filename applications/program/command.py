"""The command line: trains a preset, or shows the method in minutes."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import keras

from keras_dblocks.applications.data import DataUnavailable, load_images

from .demo import demo
from .run import Run

EXAMPLES = """
examples:
  %(prog)s demo
      minutes on two cores: blocks and both twins on digits, with a picture
  %(prog)s --preset vit_digits --epochs 5
  %(prog)s --preset vit_fashion_mnist --data fashion.npz --train-images 10000
  %(prog)s --preset vit_cifar100 --reference --output runs/paper
  %(prog)s --preset vit_cifar100 --reference --output runs/paper --resume
      goes on after a kill, at the last whole epoch

The backend is Keras's: KERAS_BACKEND=jax, tensorflow or torch.

presets (epochs are the twin's; blocks run num_blocks times as many):
"""


def main(model_class, argv=None):
    """Runs the program.

    Args:
        model_class: subclass of `DiffusionBlocks` that classifies images and
            has `presets`.
        argv: list of strings, or None for the command line's.

    Returns:
        Exit status: 0, or 2 for bad arguments or data that cannot be had.
    """
    args = _parser(model_class).parse_args(argv)
    try:
        run = _make_run(model_class, args)
        run.prepare(_load(run.recipe["data"], args.train_images))
        if args.command == "train":
            _claim(args.output, run.settings(), args.resume)
    except (DataUnavailable, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.command == "demo":
        demo(run, args.output)
    else:
        train(run, args.output, args.validation_freq)
    return 0


def train(run, folder, validation_freq=None):
    """Trains with backups and a log, prints test accuracies, saves."""
    print(run.describe())
    history = run.fit(
        validation_freq=validation_freq or max(1, run.epochs // 20),
        callbacks=[
            keras.callbacks.BackupAndRestore(
                folder / "backup", double_checkpoint=True, delete_checkpoint=False
            ),
            EpochLog(folder / "history.csv", run.columns()),
        ],
    )
    del history
    for place, accuracy in run.accuracies().items():
        print(f"test accuracy {place}: {accuracy:.2f} %")
    print("saved", ", ".join(map(str, run.save(folder))))


class EpochLog(keras.callbacks.CSVLogger):
    """A row an epoch, appended; columns are given, not those of epoch 1.

    An epoch may lack a block that was not drawn, or have no validation.
    """

    def __init__(self, path, columns):
        super().__init__(path, append=True)
        self.columns = columns

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.keys = self.columns


def _make_run(model_class, args):
    preset = model_class.presets[args.preset]
    recipe = dict(preset["training"])
    if args.reference:
        recipe.update(preset.get("reference_training", {}))
    chosen = ("data", "epochs", "batch_size", "learning_rate")
    recipe.update(_given(args, *chosen))
    config = {**preset["config"], **_given(args, "num_layers", "num_blocks")}
    config.update(reference=args.reference, seed=args.seed)
    name = args.row.replace("_", "-")
    if args.output is None:
        args.output = Path("runs", f"{args.preset}-{name}-seed{args.seed}")
        if args.command == "demo":
            args.output = Path("runs", args.preset)
    return Run(model_class, config, recipe, args.row, args.seed, args.on_policy)


def _given(args, *names):
    values = {name: getattr(args, name) for name in names}
    return {k: v for k, v in values.items() if v is not None}


def _load(name, count):
    data = load_images(name)
    return dataclasses.replace(
        data, x_train=data.x_train[:count], y_train=data.y_train[:count]
    )


def _claim(folder, settings, resume):
    """Makes `folder` this run's; refuses that of another run."""
    path = folder / "settings.json"
    if path.exists():
        if not resume:
            raise ValueError(
                "A run needs a folder of its own. "
                f"Received: {folder}, which holds a run. Pass --resume to go "
                "on with it, or another --output."
            )
        before = json.loads(path.read_text())
        changed = [
            f"{name} {old} to {settings[group][name]}"
            for group in ("config", "recipe") ...
        ]
