"""Runs on text whose blocks have a common start or are trained in sequence."""

import keras

from keras_dblocks import compat
from keras_dblocks.models.assembly import copy_weights
from keras_dblocks.training.block_order import BlockOrder

from .folder import claim
from .optimizer import make_optimizer
from .text_run import TextRun
from .train import train

# Blocks that start from the weights of a shallow model are trained with this
# share of its peak learning rate, and with other random sequences of the text.
RATE_AFTER_START, SEED_AFTER_START = 0.6, 2**20


class CurriculumRun(TextRun):
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

    def __init__(self, model_class, config, recipe, data, row="blocks"):
        self.in_sequence = row == "blocks" and bool(recipe.get("in_sequence"))
        if self.in_sequence:  # no shared weights, which later blocks change
            config = {**config, "sharing": "targets"}
        self.start = None
        if row == "blocks" and recipe.get("start_share"):
            self.start = self._make_start(model_class, config, recipe, data)
        if self.start:
            self.data_seed = SEED_AFTER_START
        self.can_be_lengthened = not (self.in_sequence or self.start)
        super().__init__(model_class, config, recipe, data, row)

    @property
    def title(self):
        if self.row == "start":
            return "The model from which blocks start"
        return super().title

    def count_epochs(self, blocks):
        epochs = super().count_epochs(blocks)
        return epochs - self.start.epochs if self.start else epochs

    def _make_start(self, model_class, config, recipe, data):
        blocks = model_class(**config)
        if blocks.num_blocks == 1:
            return None
        one = {"num_layers": len(blocks.partition.layers_of(0))}
        config = {**config, **one, "num_blocks": 1, "layers_per_block": None}
        epochs = recipe["epochs"] * blocks.num_blocks
        share = round(recipe["start_share"] * epochs)
        recipe = {
            **recipe,
            "epochs": min(max(1, share), epochs - 1),
            "alpha": 0.5,  # its copies are trained further
        }
        return CurriculumRun(model_class, config, recipe, data, "start")

    def compile_model(self):
        super().compile_model()
        if not self.in_sequence:
            return
        for block, optimizer in enumerate(self.model.optimizer.parts):
            schedule = compat.schedule(optimizer)
            offset = block * self.num_steps // self.model.num_blocks
            compat.set_schedule(optimizer, Continued(schedule, offset))

    def make_optimizer(self):
        if not (self.in_sequence or self.start):
            return super().make_optimizer()
        recipe, steps = self.recipe, self.num_steps
        if not self.in_sequence:
            steps //= self.model.num_blocks
        steps = max(2, steps)
        warmup = steps // (10 if self.start else 2)
        if self.start:
            peak = RATE_AFTER_START * recipe["learning_rate"]
            recipe = {**recipe, "learning_rate": peak}
        warmup = min(recipe["warmup_steps"], warmup)
        return make_optimizer(recipe, steps, warmup)

    def prepare_fit(self, folder):
        """Trains the model from which the blocks start, unless it is there."""
        if self.start is None:
            return
        path = folder / "start" / "model.keras"
        if not path.exists():
            claim(path.parent, self.start, resume=True)
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
        run: `CurriculumRun`.
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
