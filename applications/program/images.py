"""Runs that train generators of images, and the command `generate`."""

import argparse
import re
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

from .arguments import print_error
from .run import Run

GENERATE = """\
  generate  generates images of given classes with a saved model; see
            `generate --help`
"""
NUM_IMAGES = 2000  # generated images for the Frechet distance
FEATURE_STEPS = 1500  # training steps of the network that computes features


class GenerationRun(Run):
    """Trains a generator of images, whose twin is the model with one block."""

    metrics = ()

    def prepare(self, data, config):
        if config.get("value_range", 0) is None:
            return data  # latents
        return data.with_signed_pixels()

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
    """Writes a picture of samples after each epoch, one column per class."""

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
        description="Generates images with a saved model or its saved blocks.",
    )
    add = parser.add_argument
    text = (
        "model.keras, or the files of all blocks in their order, of which one "
        "is in memory at a time"
    )
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
    text = "picture with ten images per row (default: %(default)s)"
    add("--out", metavar="FILE", type=Path, default="grid.png", help=text)
    text = "also draw the steps of the first image through the blocks"
    add("--trajectory", metavar="FILE", type=Path, help=text)
    text = "steps of the sampler (default: %(default)s)"
    add("--num-steps", metavar="N", type=int, default=50, help=text)
    text = "classifier-free guidance (default: none; the paper uses 2)"
    add("--guidance-scale", metavar="X", type=float, help=text)
    names = ["euler", "heun", "stochastic"]
    add(
        "--sampler",
        choices=names,
        default="euler",
        help="default: %(default)s",
    )
    names = ["upper_edges", "equal_mass", "karras"]
    add("--grid", choices=names, help="noise levels (default: karras)")
    add("--seed", metavar="N", type=int, default=0, help="seed of the noise")
    args = parser.parse_args(argv)
    options = {
        name: getattr(args, name)
        for name in ("num_steps", "guidance_scale", "sampler", "grid", "seed")
    }
    try:
        labels = read_labels(args.labels)
        images, trajectory = _make(model_class, args, labels, options)
    except (ValueError, OSError) as error:
        return print_error(error)
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
    """Parses a list of classes: `"0-2,7"` gives `[0, 1, 2, 7]`."""
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
