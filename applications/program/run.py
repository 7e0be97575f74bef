"""One row of the results table: a model, its recipe, its training."""

import random

import keras
import numpy as np

from keras_dblocks.applications.data import AugmentedDataset, augmentation

ROWS = {
    "blocks": "DiffusionBlocks",
    "paper": "DiffusionBlocks, paper's settings",
    "end_to_end": "end-to-end twin",
    "layer_matched": "layer-matched twin",
}


class Run:
    """What is trained on what, and for how long.

    Every row takes the same number of layer evaluations: the end-to-end twin
    K epochs through all layers; blocks, ours and the paper's, and the twin
    only as deep as one block, `num_blocks` times K epochs through
    1 / `num_blocks` of them.

    Args:
        model_class: subclass of `DiffusionBlocks` that classifies images.
        config: dict, its constructor keywords, with `seed`.
        recipe: dict, `training` of a preset.
        data: `ImageData`.
        row: string, a key of `ROWS`.
        on_policy: `compile(on_policy=...)` of our blocks.

    Raises:
        ValueError: when the sizes, the recipe and the data do not fit.
    """

    metrics = ("accuracy",)

    def __init__(
        self, model_class, config, recipe, data, row="blocks", on_policy="auto"
    ):
        # Initializers draw from here; `keras.utils.set_random_seed` would
        # import TensorFlow wherever it is installed (3.15).
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
        # Also for the twins: it refuses wrong sizes and data.
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
            drop_remainder=True,  # one shape: each step is compiled once
        )
        longer = 1 if row == "end_to_end" else blocks.num_blocks
        self.epochs = recipe["epochs"] * longer
        self.num_steps = self.epochs * self.batches.num_batches
        self.num_layers = len(blocks.partition.layers_of(0))
        if row == "end_to_end":
            self.num_layers = blocks.num_layers
        if self.in_blocks:
            self.model = self._compile_blocks(blocks)
        else:
            self.model = self._compile_twin(model_class)

    def prepare(self, data, config):
        """`ImageData` in the values the model takes."""
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
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps - warmup),
            alpha=recipe["alpha"],
            warmup_target=recipe["learning_rate"],
            warmup_steps=warmup,
        )
        return keras.optimizers.AdamW(
            schedule,
            weight_decay=recipe["weight_decay"],
            global_clipnorm=recipe["clipnorm"],
        )

    def describe(self):
        """One line on what `fit` will do."""
        data = self.data
        return (
            f"{ROWS[self.row]} on {len(data.x_train):,} images of {data.name}: "
            f"{self.epochs} epochs of {self.batches.num_batches} steps, "
            f"{self.num_layers} of {self.config['num_layers']} layers a step, "
            f"{self.num_steps * self.num_layers:,} layer evaluations."
        )

    def settings(self):
        """What a resumed run has in common with the one it resumes."""
        return {
            **self.config,
            **self.recipe,
            "row": self.row,
            "on_policy": self.on_policy,
            "train_images": len(self.data.x_train),
        }

    def prepare_fit(self, folder):
        """What comes before `fit`, kept in `folder`."""

    def fit(self, callbacks=(), **kwargs):
        """`fit` of the model on the batches, for all epochs."""
        return self.model.fit(
            self.batches,
            epochs=self.epochs,
            shuffle=False,  # the batches have an order of their own
            callbacks=[self.batches.epoch_callback(), *callbacks],
            **kwargs,
        )

    def accuracies(self):
        """Test accuracy in percent after each block; of a twin, one."""
        x, y = self.data.x_test, self.data.y_test
        if self.in_blocks:
            steps = self.model.predict_steps(x)
        else:
            steps = [self.model.predict(x, batch_size=128, verbose=0)]
        return [100 * float(np.mean(s.argmax(-1) == y)) for s in steps]

    def validation_data(self):
        """What `fit` computes `val_loss` on."""
        return self.data.x_test, self.data.y_test

    def callbacks(self, folder):
        """What else watches the training."""
        return []

    def results(self, folder):
        """Lines to print after training."""
        lines = []
        for i, accuracy in enumerate(self.accuracies()):
            place = f" after block {i}" if self.in_blocks else ""
            lines.append(f"test accuracy{place}: {accuracy:.2f} %")
        return lines

    def save(self, folder):
        """Writes `model.keras` and a file per block; returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {folder / "model.keras": self.model}
        if self.in_blocks:
            for i, block in enumerate(self.model.blocks):
                files[folder / f"block_{i}.keras"] = block
        for path, model in files.items():
            model.save(path)
        return list(files)
