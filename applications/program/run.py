"""One row of the results table: a model, its recipe, its training.

Every row takes the same number of layer evaluations. The end-to-end twin
takes K epochs through all layers; blocks, and the twin only as deep as one
block, take `num_blocks` times K epochs through 1 / `num_blocks` of them.
"""

import dataclasses
import json

import keras
import numpy as np

from keras_dblocks.applications.data import AugmentedDataset, augmentation

ROWS = {
    "blocks": "DiffusionBlocks",
    "end_to_end": "end-to-end twin",
    "layer_matched": "layer-matched twin",
}


@dataclasses.dataclass
class Run:
    """What is trained, and how.

    Args:
        model_class: subclass of `DiffusionBlocks` that classifies.
        config: dict, its constructor keywords.
        recipe: dict, `training` of a preset.
        row: string, a key of `ROWS`.
        seed: int.
        on_policy: `compile(on_policy=...)` of the blocks.
    """

    model_class: type
    config: dict
    recipe: dict
    row: str = "blocks"
    seed: int = 0
    on_policy: float | str = "auto"

    def prepare(self, data):
        """Makes the model and its batches; refuses what does not fit.

        Args:
            data: `ImageData`.
        """
        keras.utils.set_random_seed(self.seed)
        recipe = self.recipe
        self.blocks = self.model_class(**self.config)
        self.blocks.check_data(data.x_train, data.y_train)
        self.batches = AugmentedDataset(
            data.x_train,
            data.y_train,
            batch_size=min(recipe["batch_size"], len(data.x_train)),
            augment=augmentation(
                recipe["augmentation"], data.x_train.shape[-1]
            ),
            mean=data.mean,
            std=data.std,
            seed=self.seed,
            drop_remainder=True,  # one shape: each step is compiled once
        )
        self.data = data
        longer = self.blocks.num_blocks if self.row != "end_to_end" else 1
        self.epochs = recipe["epochs"] * longer
        self.model = self._compile(self.epochs * self.batches.num_batches)

    def _compile(self, steps):
        if self.row == "blocks":
            # Each block follows the schedule in its own steps.
            optimizer = self._optimizer(steps // self.blocks.num_blocks)
            self.blocks.compile(
                optimizer, metrics=["accuracy"], on_policy=self.on_policy
            )
            return self.blocks
        config = dict(self.config)
        if self.row == "layer_matched":
            config["num_layers"] = len(self.blocks.partition.layers_of(0))
        twin = self.model_class.end_to_end(**config)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        twin.compile(self._optimizer(steps), loss, metrics=["accuracy"])
        return twin

    def _optimizer(self, steps):
        recipe = self.recipe
        warmup = steps * recipe["warmup_epochs"] // recipe["epochs"]
        warmup = max(1, min(warmup, steps // 2))
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, steps - warmup),
            alpha=recipe["final_learning_rate"] / recipe["learning_rate"],
            warmup_target=recipe["learning_rate"],
            warmup_steps=warmup,
        )
        return keras.optimizers.AdamW(
            schedule,
            weight_decay=recipe["weight_decay"],
            global_clipnorm=recipe["clipnorm"],
        )

    def fit(self, callbacks=(), verbose="auto", validation_freq=None):
        """Trains; `validation_freq` in epochs, None for no validation."""
        test = (self.data.x_test, self.data.y_test)
        return self.model.fit(
            self.batches,
            epochs=self.epochs,
            verbose=verbose,
            shuffle=False,  # the batches have an order of their own
            callbacks=[self.batches.epoch_callback(), *callbacks],
            validation_data=test if validation_freq else None,
            validation_freq=validation_freq or 1,
        )

    def accuracies(self):
        """Test accuracy after each block (of a twin: the one), in percent."""
        x, y = self.data.x_test, self.data.y_test
        if self.row == "blocks":
            steps = self.model.predict_steps(x)
        else:
            steps = [self.model.predict(x, batch_size=128, verbose=0)]
        return [100 * float(np.mean(s.argmax(-1) == y)) for s in steps]

    def save(self, folder):
        """Writes `model.keras` and one file per block; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        saved = {folder / "model.keras": self.model}
        if self.row == "blocks":
            for i in range(self.model.num_blocks):
                saved[folder / f"block_{i}.keras"] = self.model.block(i)
        for path, model in saved.items():
            model.save(path)
        return list(saved)

    def settings(self):
        """What a resumed run must have in common with the one it resumes."""
        fields = dataclasses.asdict(self)
        fields["model_class"] = self.model_class.__name__
        return json.loads(json.dumps(fields))
