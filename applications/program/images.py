"""Runs of the train program that generate images, and `generate`."""

import argparse
import dataclasses
import re
import sys
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.images.features import (
    features,
    train_feature_network,
)
from keras_dblocks.applications.images.pictures import (
    save_grid,
    save_trajectory,
)
from keras_dblocks.applications.metrics import frechet_distance

from .run import Run

GENERATE = """\
  generate  images of given classes from a saved model; see `generate --help`
"""
NUM_IMAGES = 2000  # generated for the Frechet distance
FEATURE_STEPS = 1500  # of the network whose features it compares


class GenerationRun(Run):
    """One row of a generator's results; its twin is itself with one block."""

    metrics = ()

    def prepare(self, data, config):
        if config.get("value_range", 0) is None:
            return data  # latents
        mean, std = data.mean, data.std
        x = [(2 * (x * std + mean) - 1) for x in (data.x_train, data.x_test)]
        x = [a.clip(-1.0, 1.0).astype("float32") for a in x]
        half = np.full(len(mean), 0.5, "float32")  # pixels to [-1, 1]
        return dataclasses.replace(
            data, x_train=x[0], x_test=x[1], mean=half, std=half
        )

    def _compile_twin(self, model_class):
        model = model_class.end_to_end(
            **{**self.config, "num_layers": self.num_layers}
        )
        model.compile(self._optimizer(self.num_steps))
        return model

    def callbacks(self, folder):
        return [SampleGrid(folder / "samples", self.config["num_classes"])]

    def results(self, folder):
        data = self.data
        images = self.model.generate(np.arange(10) % data.num_classes)
        save_grid(folder / "grid.png", images)
        _, trajectory = self.model.generate([0], return_trajectory=True)
        save_trajectory(folder / "trajectory.png", trajectory)
        pictures = (
            f"pictures: {folder / 'grid.png'} {folder / 'trajectory.png'}"
        )
        if self.config.get("value_range", 0) is None:
            return [pictures + ", of the latents' first channels"]
        path = folder.parent / f"features-{Path(data.name).stem}.keras"
        extractor = train_feature_network(
            data.x_train, data.y_train, path, FEATURE_STEPS, verbose=0
        )
        labels = np.resize(data.y_test, NUM_IMAGES)
        images = self.model.generate(labels, verbose=1)
        distance = frechet_distance(
            features(extractor, data.x_test), features(extractor, images)
        )
        return [
            pictures,
            f"Frechet distance of {NUM_IMAGES} images to the test images, over "
            f"the features of {path}: {distance:.3f}",
        ]


class SampleGrid(keras.callbacks.Callback):
    """Writes a PNG of samples after each epoch, a column per class."""

    def __init__(self, folder, num_classes, rows=4):
        super().__init__()
        self.folder = folder
        self.labels = np.tile(np.arange(min(num_classes, 10)), rows)

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.folder.mkdir(parents=True, exist_ok=True)
        images = self.model.generate(self.labels, num_steps=20, sampler="euler")
        path = self.folder / f"epoch_{epoch + 1:04d}.png"
        save_grid(path, images, columns=len(set(self.labels)))


def generate(model_class, argv, prog):
    """The command `generate`.

    Args:
        model_class: subclass of `DiffusionBlocks` that has `generate`.
        argv: list of strings.
        prog: string, how the program is called.

    Returns:
        Exit status: 0, or 2 for arguments that do not fit.
    """
    parser = argparse.ArgumentParser(
        prog=f"{prog} generate",
        description="Makes images from a saved model or its saved blocks.",
    )
    add = parser.add_argument
    text = "model.keras, or a file per block in order: one is held at a time"
    add(
        "--model",
        metavar="FILE",
        nargs="+",
        type=Path,
        required=True,
        help=text,
    )
    text = "classes, such as 0-9 or 3,3,7 (default: %(default)s)"
    add("--labels", metavar="LIST", default="0-9", help=text)
    text = "picture, ten images in a row (default: %(default)s)"
    add("--out", metavar="FILE", type=Path, default="grid.png", help=text)
    text = "also a picture of the first image's way through the blocks"
    add("--trajectory", metavar="FILE", type=Path, help=text)
    text = "steps of the sampler (default: %(default)s)"
    add("--num-steps", metavar="N", type=int, default=50, help=text)
    text = "classifier-free guidance (default: none; the paper: 2)"
    add("--guidance-scale", metavar="X", type=float, help=text)
    names = ["euler", "heun", "stochastic"]
    add(
        "--sampler",
        choices=names,
        default="euler",
        help="%(default)s if left out",
    )
    names = ["upper_edges", "equal_mass", "karras"]
    add("--grid", choices=names, help="noise levels (default: karras)")
    add("--seed", metavar="N", type=int, default=0, help="of the start noise")
    args = parser.parse_args(argv)
    options = {
        name: getattr(args, name)
        for name in ("num_steps", "guidance_scale", "sampler", "grid", "seed")
    }
    try:
        labels = read_labels(args.labels)
        images, trajectory = _make(model_class, args, labels, options)
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    save_grid(args.out, images)
    if args.trajectory:
        save_trajectory(args.trajectory, trajectory)
    print(f"{len(images)} images in {args.out}")
    return 0


def _make(model_class, args, labels, options):
    if len(args.model) > 1:
        if args.trajectory:
            raise ValueError(
                "A trajectory is drawn from a whole model. Received: "
                f"{len(args.model)} files. Pass one `model.keras`."
            )
        images = model_class.generate_from_blocks(
            args.model, labels, verbose=1, **options
        )
        return images, None
    model = keras.saving.load_model(args.model[0], compile=False)
    if not isinstance(model, model_class):
        raise ValueError(
            f"The file must hold a {model_class.__name__}. Received: "
            f"{args.model[0]} with a {type(model).__name__}. "
            "Pass the `model.keras` of a run."
        )
    return model.generate(labels, verbose=1, return_trajectory=True, **options)


def read_labels(text):
    """`"0-2,7"` to `[0, 1, 2, 7]`."""
    labels = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not found:
            raise ValueError(
                "`--labels` must be numbers and ranges. "
                f"Received: {text!r}. Write 0-9 or 3,3,7."
            )
        first, last = int(found[1]), int(found[2] or found[1])
        labels.extend(range(first, last + 1))
    return labels
