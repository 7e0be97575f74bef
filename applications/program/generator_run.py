"""A run that trains a generator of images."""

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

from .figures import Figure
from .image_run import ImageRun
from .progress import in_terminal

FEATURE_STEPS = 1500  # training steps of the network that computes features


class GeneratorRun(ImageRun):
    """Trains a generator of images, whose twin is the model with one block."""

    @property
    def on_latents(self):
        return self.config.get("value_range", 0) is None

    num_samples = 2000  # for the Frechet distance

    def prepare(self, data, blocks):
        data = super().prepare(data, blocks)
        return data if self.on_latents else data.with_signed_pixels()

    def callbacks(self, folder):
        return [SampleGrid(folder / "samples", self.config["num_classes"])]

    def watched(self):
        if self.on_latents:
            return {}
        labels = np.arange(min(self.config["num_classes"], 10))
        return {"samples": lambda model: model.generate(labels, num_steps=20)}

    def save(self, folder):
        """Writes the models, a grid of images, and the way of one of them.

        Of latents the pictures show the first channels.
        """
        paths = super().save(folder)
        grid, trajectory = folder / "grid.png", folder / "trajectory.png"
        labels = np.arange(10) % self.data.num_classes
        save_grid(grid, self.model.generate(labels))
        _, steps = self.model.generate([0], return_trajectory=True)
        save_trajectory(trajectory, steps)
        return [*paths, grid, trajectory]

    def results(self, folder):
        """The Frechet distance of new images; that of latents means little."""
        count = self.recipe.get("samples", self.num_samples)
        if self.on_latents or not count:
            return {}
        data = self.data
        path = folder.parent / f"features-{Path(data.name).stem}.keras"
        print(f"generating {count:,} images to be compared", flush=True)
        extractor = train_feature_network(
            data.x_train, data.y_train, path, FEATURE_STEPS, verbose=0
        )
        labels = np.resize(data.y_test, count)
        images = self.model.generate(labels, verbose=int(in_terminal()))
        distance = frechet_distance(
            features(extractor, data.x_test), features(extractor, images)
        )
        name = f"Frechet distance of {count:,} images to the test images"
        return {name: Figure(float(distance), f"squared features of {path}")}


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
