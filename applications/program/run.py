"""A run of the training program: a model, its recipe and its data."""

import random

import keras
import numpy as np

from keras_dblocks.applications.data import AugmentedDataset, augmentation

from .optimizer import make_optimizer

# The kinds of runs, which are the rows of a table of results.
ROWS = {
    "blocks": "DiffusionBlocks",
    "paper": "DiffusionBlocks, paper's settings",
    "end_to_end": "end-to-end twin",
    "layer_matched": "layer-matched twin",
}


class Run:
    """Trains one model on images.

    Every kind of run performs the same number of layer evaluations. The
    end-to-end twin is trained for K epochs through all layers. DiffusionBlocks
    and the layer-matched twin, which is only as deep as one block, are trained
    for `num_blocks` times K epochs, through 1 / `num_blocks` of the layers.

    Args:
        model_class: subclass of `DiffusionBlocks` that classifies images.
        config: dict of its constructor keywords, with `seed`.
        recipe: dict, `training` of a preset.
        data: `ImageData`.
        row: string, a key of `ROWS`.
        on_policy: argument of `compile` for the row "blocks".

    Raises:
        ValueError: if the sizes, the recipe and the data do not fit together.
    """

    metrics = ("accuracy",)

    def __init__(
        self, model_class, config, recipe, data, row="blocks", on_policy="auto"
    ):
        # Initializers take their seeds from here. `keras.utils.set_random_seed`
        # would import TensorFlow wherever it is installed (3.15).
        random.seed(config["seed"])
        if row == "paper":
            config, on_policy = {**config, "reference": True}, "auto"
        data = self.prepare(data, config)
        self.config = config
        self.recipe = recipe
        self.data = data
        self.row = row
        self.in_blocks = row in ("blocks", "paper")
        self.on_policy = on_policy
        # The twins need it too: it checks the sizes and the data.
        blocks = model_class(**config)
        blocks.check_data(data.x_train, data.y_train)
        self.batches = AugmentedDataset(
            data.x_train,
            data.y_train,
            batch_size=min(recipe["batch_size"], len(data.x_train)),
            augment=augmentation(recipe["augmentation"], config["channels"]),
            mean=data.mean,
            std=data.std,
            seed=config["seed"],
            drop_remainder=True,  # a step is compiled for each batch size
        )
        self.epochs = recipe["epochs"]
        if row != "end_to_end":
            self.epochs *= blocks.num_blocks
        self.num_steps = self.epochs * self.batches.num_batches
        self.num_layers = len(blocks.partition.layers_of(0))
        if row == "end_to_end":
            self.num_layers = blocks.num_layers
        if self.in_blocks:
            self.model = self._compile_blocks(blocks)
        else:
            self.model = self._compile_twin(model_class)

    def prepare(self, data, config):
        """Converts `ImageData` to the values that the model expects."""
        return data

    def _compile_blocks(self, model):
        # Each block follows the schedule in its own steps.
        optimizer = self._optimizer(self.num_steps // model.num_blocks)
        metrics = list(self.metrics)
        model.compile(optimizer, metrics=metrics, on_policy=self.on_policy)
        return model

    def _compile_twin(self, model_class):
        config = {**self.config, "num_layers": self.num_layers}
        model = model_class.end_to_end(**config)
        model.compile(
            self._optimizer(self.num_steps),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=list(self.metrics),
        )
        return model

    def _optimizer(self, steps):
        recipe = self.recipe
        warmup = steps * recipe["warmup_epochs"] // recipe["epochs"]
        warmup = max(1, min(warmup, steps // 2))
        return make_optimizer(recipe, steps, warmup)

    def describe(self):
        """Describes on one line what `fit` will do."""
        data = self.data
        return (
            f"{ROWS[self.row]} on {len(data.x_train):,} images of {data.name}: "
            f"{self.epochs} epochs of {self.batches.num_batches} steps, "
            f"{self.num_layers} of {self.config['num_layers']} layers a step, "
            f"{self.num_steps * self.num_layers:,} layer evaluations."
        )

    def settings(self):
        """The settings that a resumed run must share with the original one."""
        return {
            **self.config,
            **self.recipe,
            "row": self.row,
            "on_policy": self.on_policy,
            "train_images": len(self.data.x_train),
        }

    def prepare_fit(self, folder):
        """Prepares `fit`, with files in `folder` where necessary."""

    def fit(self, callbacks=(), **kwargs):
        """Trains the model for all epochs."""
        return self.model.fit(
            self.batches,
            epochs=self.epochs,
            shuffle=False,  # the batches are shuffled already
            callbacks=[self.batches.epoch_callback(), *callbacks],
            **kwargs,
        )

    def accuracies(self):
        """Test accuracies in percent, one for each block; a twin has one."""
        x, y = self.data.x_test, self.data.y_test
        if self.in_blocks:
            steps = self.model.predict_steps(x)
        else:
            steps = [self.model.predict(x, batch_size=128, verbose=0)]
        return [100 * float(np.mean(s.argmax(-1) == y)) for s in steps]

    def validation_data(self):
        """The data on which `fit` computes `val_loss`."""
        return self.data.x_test, self.data.y_test

    def callbacks(self, folder):
        """Further callbacks of the training."""
        return []

    def results(self, folder):
        """Lines that are printed after the training."""
        lines = []
        for i, accuracy in enumerate(self.accuracies()):
            place = f" after block {i}" if self.in_blocks else ""
            lines.append(f"test accuracy{place}: {accuracy:.2f} %")
        return lines

    def save(self, folder):
        """Writes `model.keras` and one file per block; returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {folder / "model.keras": self.model}
        if self.in_blocks:
            for i, block in enumerate(self.model.blocks):
                files[folder / f"block_{i}.keras"] = block
        for path, model in files.items():
            model.save(path)
        return list(files)
