"""A run of the training program: a model, its recipe and its data."""

import random

from keras_dblocks.presets import BLOCK_FILE

from .interrupts import Interrupts
from .optimizer import make_optimizer

# The kinds of runs, which are the rows of a table of results.
ROWS = {
    "blocks": "DiffusionBlocks",
    "paper": "DiffusionBlocks, paper's settings",
    "end_to_end": "end-to-end twin",
    "layer_matched": "layer-matched twin",
}


class Run:
    """Trains one model; a subclass says on what.

    Every kind of run performs the same number of layer evaluations. The
    end-to-end twin is trained for K epochs through all layers. DiffusionBlocks
    and the layer-matched twin, which is only as deep as one block, are trained
    for `num_blocks` times K epochs, through 1 / `num_blocks` of the layers.

    A subclass has the attributes `examples`, what a batch consists of,
    `data_help` and `example_file`, for the option `--data`, and defines `load`,
    `sizes_of`, `make_batches`, `warmup_steps`, `validation_data`, `results`
    and `describe_data`.

    Args:
        model_class: subclass of `DiffusionBlocks`.
        config: dict of its constructor keywords, with `seed`.
        recipe: dict, `training` of a preset. Besides the entries of the
            presets it may have `steps_per_epoch`, `train_examples` (train on
            the first ones only), `on_policy` (of `compile`, for blocks) and
            `blocks_on_ray` (True if `train_on_ray` trains it).
        data: what `load` returns.
        row: string, a key of `ROWS`.

    Raises:
        ValueError: if the sizes, the recipe and the data do not fit together.
    """

    metrics = ()
    tokenizers = ()  # names of those that text can be read with
    has_patches = False  # whether the model divides images into patches
    num_samples = None  # images drawn at the end to be compared, or none

    def __init__(self, model_class, config, recipe, data, row="blocks"):
        # Initializers take their seeds from here. `keras.utils.set_random_seed`
        # would import TensorFlow wherever it is installed (3.15).
        random.seed(config["seed"])
        if row == "paper":
            config = {**config, "reference": True}
            recipe = {**recipe, "on_policy": "auto"}
        self.config, self.recipe, self.row = config, recipe, row
        self.in_blocks = row not in ("end_to_end", "layer_matched")
        # The twins need it too: it checks the sizes and the data.
        blocks = model_class(**config)
        self.depth = blocks.num_layers
        self.num_layers = len(blocks.partition.layers_of(0))
        if row == "end_to_end":
            self.num_layers = self.depth
        self.epochs = self.count_epochs(blocks)
        self.data = self.prepare(data, blocks)
        self.batches = self.make_batches(blocks)
        self.model = blocks if self.in_blocks else getattr(blocks, row)()
        self.compile_model()

    @property
    def num_steps(self):
        """Steps of the whole run."""
        return self.epochs * self.batches.num_batches

    @property
    def title(self):
        """What is trained."""
        return ROWS[self.row]

    @staticmethod
    def load(recipe):
        """The data of a recipe."""
        raise NotImplementedError

    @staticmethod
    def sizes_of(data, recipe, config):
        """The constructor keywords of a model that follow from its data.

        Args:
            data: what `load` returns for `recipe`.
            config: dict, `config` of a preset.
        """
        raise NotImplementedError

    def prepare(self, data, blocks):
        """The data as the model expects them, no more than are asked for."""
        return data

    def count_epochs(self, blocks):
        """Epochs of this row, for those of the end-to-end twin."""
        times = 1 if self.row == "end_to_end" else blocks.num_blocks
        return times * self.recipe["epochs"]

    def compile_model(self):
        """Compiles the model."""
        self.model.compile(self.make_optimizer(), **self.compile_options())

    def compile_options(self):
        """Arguments of `compile` besides the optimizer."""
        if not self.in_blocks:
            return {}
        options = {"on_policy": self.recipe.get("on_policy", "auto")}
        if self.recipe.get("blocks_on_ray"):  # all blocks at the same time
            options["curriculum"] = "sampled"
        return options

    @property
    def can_be_lengthened(self):
        """Whether a resumed run may have more epochs than it began with.

        In a curriculum the block that trains at a step depends on the length.
        """
        if self.recipe.get("blocks_on_ray"):
            return False  # the workers' folder is for one length
        run = getattr(self.model, "curriculum_run", None)
        return run is None or run.curriculum is None

    def make_optimizer(self):
        """The optimizer; each block follows the schedule in its own steps."""
        steps = self.num_steps // getattr(self.model, "num_blocks", 1)
        steps = max(2, steps)
        return make_optimizer(self.recipe, steps, self.warmup_steps(steps))

    def describe(self):
        """Describes on one line what `fit` will do."""
        return (
            f"{self.title} on {self.describe_data()}: "
            f"{self.epochs:,} epochs of {self.batches.num_batches:,} steps, "
            f"{self.num_layers} of {self.depth} layers a step, "
            f"{self.num_steps * self.num_layers:,} layer evaluations."
        )

    def settings(self):
        """The settings that a resumed run must share with the original one."""
        return {**self.config, **self.recipe, "row": self.row}

    def fit(self, callbacks=(), **kwargs):
        """Trains the model for all epochs."""
        with Interrupts() as interrupts:
            first = [self.batches.epoch_callback(), *callbacks]
            return self.model.fit(
                self.batches,
                epochs=self.epochs,
                shuffle=False,  # the batches are shuffled already
                callbacks=[*first, interrupts],
                **kwargs,
            )

    def callbacks(self, folder):
        """Further callbacks of the training."""
        return []

    def watched(self):
        """Arguments of `BlockLog`: what else to look at after an epoch."""
        return {}

    def legend(self):
        """Lines (list) printed below the results, which explain them."""
        return []

    def results(self, folder):
        """`Figure`s by name, measured after the training."""
        raise NotImplementedError

    def save(self, folder):
        """Writes `model.keras` and one file per block; returns the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {folder / "model.keras": self.model}
        if self.in_blocks:
            for i, block in enumerate(self.model.blocks):
                files[folder / BLOCK_FILE.format(i)] = block
        for path, model in files.items():
            model.save(path)
        return list(files)
