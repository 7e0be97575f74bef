"""Runs of the training program that train on text."""

import random

import keras

from keras_dblocks import compat
from keras_dblocks.applications.data import RandomChunks, chunks
from keras_dblocks.models.assembly import copy_weights
from keras_dblocks.training.block_order import BlockOrder

from .optimizer import make_optimizer
from .run import ROWS, Run
from .train import claim, train

# Blocks that start from the weights of a shallow model are trained with this
# share of its peak learning rate, and with other random sequences of the text.
RATE_AFTER_START, SEED_AFTER_START = 0.6, 2**20


class TextRun(Run):
    """One row of a text system's results.

    Args:
        model_class: subclass of `DiffusionBlocks` that generates tokens.
        config: dict of its constructor keywords, with `seed`.
        recipe: dict, `training` of a preset. For the row "blocks" it may have
            one of two further entries. `start_share`: this share of the
            blocks' steps trains a model as deep as one block on all noise
            levels, from whose weights all blocks start
            (`DiffusionBlocks.start_from`). `in_sequence`: the blocks are
            trained one after the other, each from the weights of the one
            before it, with one learning-rate schedule for all of them.
        data: `TextData`.
        row: string, a key of `ROWS`, or "start", the model from which the
            blocks start.
    """

    metrics = ()

    def __init__(self, model_class, config, recipe, data, row="blocks"):
        random.seed(config["seed"])  # initializers
        self.config, self.recipe = config, recipe
        self.data, self.row = data, row
        self.in_blocks = row in ("blocks", "paper", "start")
        if row == "paper":
            self.config = config = {**config, "reference": True}
            self.recipe = recipe = {**recipe, "on_policy": "auto"}
        self.in_sequence = row == "blocks" and bool(recipe.get("in_sequence"))
        if self.in_sequence:  # no shared weights, which later blocks change
            self.config = config = {**config, "sharing": "targets"}
        blocks = model_class(**config)
        self.epochs = recipe["epochs"]
        if row not in ("end_to_end", "start"):
            self.epochs *= blocks.num_blocks
        self.num_layers = len(blocks.partition.layers_of(0))
        if row == "end_to_end":
            self.num_layers = blocks.num_layers
        self.start = None
        share = recipe.get("start_share") if row == "blocks" else 0
        if share and blocks.num_blocks > 1:
            self.start = self._make_start(model_class, share)
            self.epochs -= self.start.epochs
        self.batches = RandomChunks(
            data.train,
            blocks.sequence_length,
            recipe["batch_size"],
            recipe.get("steps_per_epoch"),
            seed=config["seed"] + (SEED_AFTER_START if self.start else 0),
        )
        self.num_steps = self.epochs * len(self.batches)
        self.model = blocks
        if not self.in_blocks:
            config = {**config, "num_layers": self.num_layers}
            self.model = model_class.end_to_end(**config)
        self.model.tokenizer = data.tokenizer
        self._compile(recipe.get("on_policy", "auto"))

    def _compile(self, on_policy):
        options = {"on_policy": on_policy} if self.in_blocks else {}
        self.model.compile(self._optimizer(), **options)
        if self.in_sequence:
            optimizers = self.model.optimizer.parts
            for block, optimizer in enumerate(optimizers):
                schedule = compat.schedule(optimizer)
                offset = block * self.num_steps // self.model.num_blocks
                compat.set_schedule(optimizer, Continued(schedule, offset))

    def _make_start(self, model_class, share):
        one = {"num_layers": self.num_layers, "num_blocks": 1}
        config = {**self.config, **one, "layers_per_block": None}
        recipe = {
            **self.recipe,
            "epochs": min(max(1, round(share * self.epochs)), self.epochs - 1),
            "alpha": 0.5,  # its copies are trained further
        }
        return TextRun(model_class, config, recipe, self.data, "start")

    def _optimizer(self):
        recipe = self.recipe
        steps = self.num_steps
        if not self.in_sequence:
            steps //= getattr(self.model, "num_blocks", 1)
        warmup = max(2, steps) // (10 if self.start else 2)
        warmup = min(recipe["warmup_steps"], warmup)
        if self.start:
            peak = RATE_AFTER_START * recipe["learning_rate"]
            recipe = {**recipe, "learning_rate": peak}
        return make_optimizer(recipe, max(2, steps), warmup)

    def describe(self):
        names = {"start": "The model from which blocks start", **ROWS}
        return (
            f"{names[self.row]} on {len(self.data.train):,} tokens of "
            f"{self.data.name}: {self.epochs} epochs of {len(self.batches)} "
            f"steps, {self.num_layers} layers a step, "
            f"{self.num_steps * self.num_layers:,} layer evaluations."
        )

    def settings(self):
        return {**self.config, **self.recipe, "row": self.row}

    def validation_data(self):
        return chunks(self.data.validation, self.model.sequence_length)[:256]

    def prepare_fit(self, folder):
        """Trains the model from which the blocks start, unless it is there."""
        if self.start is None:
            return
        path = folder / "start" / "model.keras"
        if not path.exists():
            claim(path.parent, self.start.settings(), resume=True)
            train(self.start, path.parent)
        start = keras.saving.load_model(path, compile=False)
        self.model.start_from(start)

    def fit(self, callbacks=(), **kwargs):
        if self.in_sequence:
            callbacks = [InSequence(self), *callbacks]
        return super().fit(callbacks, **kwargs)

    def train_in_memory(self):
        """Trains without files and output.

        Returns:
            The number of steps, including those of the model from which the
            blocks start.
        """
        before = 0
        if self.start is not None:
            before = self.start.train_in_memory()
            self.model.start_from(self.start.model)
            self.start.model = None
        self.fit(verbose=0)
        return before + self.num_steps

    def callbacks(self, folder):
        return [Samples()]

    def results(self, folder):
        test = chunks(self.data.test, self.model.sequence_length)[:1000]
        result = self.model.evaluate(test, return_dict=True)
        return [f"{name}: {value:.4f}" for name, value in result.items()]


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Continued(keras.optimizers.schedules.LearningRateSchedule):
    """Continues another schedule from its step `offset`.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        offset: int.
    """

    def __init__(self, schedule, offset):
        self.schedule = schedule
        self.offset = offset

    def __call__(self, step):
        return self.schedule(keras.ops.cast(step, "float32") + self.offset)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "offset": self.offset}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["offset"])


class InSequence(keras.callbacks.Callback):
    """Trains one block after the other, in equally many epochs.

    Each block starts from the weights of the block before it.

    Args:
        run: `TextRun`.
    """

    def __init__(self, run):
        super().__init__()
        self.epochs_per_block = run.epochs // run.model.num_blocks

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        index, epoch_of_block = divmod(epoch, self.epochs_per_block)
        model.block_order = BlockOrder(index, model.num_blocks)
        if index and not epoch_of_block:
            previous, block = model.blocks[index - 1], model.blocks[index]
            copy_weights(previous.weights, block.weights)


class Samples(keras.callbacks.Callback):
    """Prints one generated text after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        (text,) = self.model.generate(num_samples=1, seed=epoch)
        print(f"\nsample: {text!r}")
