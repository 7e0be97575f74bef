"""A network that exists, trained a block at a time."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat
from keras_dblocks.checks import check_integer, check_rows
from keras_dblocks.cutting.division import divide
from keras_dblocks.cutting.exact_block import ExactBlock
from keras_dblocks.cutting.large_head import large_head, serves
from keras_dblocks.cutting.units import units_of
from keras_dblocks.files.random_states import SavedRandomStates
from keras_dblocks.table import count, laid_out, state_size
from keras_dblocks.training.block_optimizers import WholeSchedule
from keras_dblocks.training.trainer import BlockTrainer


def cut(model, num_blocks, at=None, tables="auto", seed=0):
    """Cuts any Keras model into blocks that `fit` trains one at a time.

    The model is trained itself: nothing is copied or added to it, and it
    predicts, generates and is saved as before. A step computes the whole
    network's loss, and its gradient for the weights of one block, which alone
    have optimizer state in that step (docs/method.md#networks-that-exist).

    Args:
        model: built `keras.Model`.
        num_blocks: int.
        at: list of `num_blocks - 1` names of layers that begin the second and
            later blocks. By default the network is divided evenly; see
            `summary()`.
        tables: `"own"` puts embedding tables into a block of their own, the
            last one; `"inside"` leaves them in the blocks where they stand;
            `"auto"` chooses `"own"` for tables larger than an average block.
        seed: int, of the order of blocks and data.

    Returns:
        `CutModel`.

    Raises:
        ValueError: for a model that is not built, has fewer layers with
            weights than blocks, or has a training step of its own.

    Example:

    ```python
    import keras, keras_dblocks

    model = keras.Sequential(
        [keras.Input((8,)), *(keras.layers.Dense(8) for _ in range(4))]
    )
    cut = keras_dblocks.cut(model, num_blocks=2)
    cut.compile(keras.optimizers.AdamW(1e-3), loss="mse")
    cut.fit(x, y, epochs=2)
    model.predict(x)  # the model itself was trained
    ```

    References:
     - [BAdam](https://arxiv.org/abs/2404.02827)
     - [LISA](https://arxiv.org/abs/2403.17919)
    """
    check_model(model)
    check_integer("seed", seed, 0)
    return CutModel(
        model, divide(units_of(model), num_blocks, at, tables), seed
    )


def check_model(model):
    """Raises a ValueError for what cannot be cut."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`cut` takes a keras.Model. Received: a {type(model).__name__}. "
            "Wrap a layer in `keras.Sequential`."
        )
    if isinstance(model, BlockTrainer):
        raise ValueError(
            "`cut` takes a network that is trained as a whole. Received: a "
            f"{type(model).__name__}, which has blocks already. Call its `fit`."
        )
    if not model.built or not model.variables:
        raise ValueError(
            "`cut` takes a model that has its weights. Received: "
            f"{model.name}, which is not built. Call it on a batch first."
        )
    for name in ("train_step", "test_step", "compute_metrics"):
        if compat.overrides(model, name):
            raise ValueError(
                "`cut` takes the loss and metrics of `compile`, or a "
                f"`compute_loss`. Received: {type(model).__name__} with a "
                f"`{name}` of its own, which would not be called. Move its "
                "loss to `compute_loss`, its metrics to `compile`."
            )
    if compat.own_metrics(model) or compat.overrides(model, "metrics"):
        raise ValueError(
            "`cut` takes the metrics of `compile`. Received: "
            f"{type(model).__name__} with metrics of its own, which would not "
            "be reported. Pass them to `compile`."
        )
    if any(part.compute_dtype == "float16" for part in compat.sublayers(model)):
        raise ValueError(
            "`cut` has an optimizer for each block, without loss scaling. "
            f"Received: {model.name}, which computes in float16. Use "
            "mixed_bfloat16."
        )


class CutModel(SavedRandomStates, BlockTrainer):
    """Trains a network's blocks in turn; `cut` makes it.

    `fit`, `evaluate`, `predict` and `generate` take what the network's own
    take. `save` writes the network, as its own `save` does, and
    `save_weights` what a run needs to be continued.

    Args:
        model: built `keras.Model`.
        division: list of lists of `Unit`, one for each block.
        seed: int.
    """

    default_on_policy = 0.0

    def __init__(self, model, division, seed=0):
        # PyTorch takes no dots in names of parameters.
        super().__init__(name=f"{model.name}_in_blocks".replace(".", "_"))
        compat.takes_inputs_as_they_are(self)
        self.model = model
        if hasattr(model, "output_names"):  # that losses and metrics are for
            self.output_names = model.output_names
        self.seed = seed
        self.num_blocks = len(division)
        self.__dict__["blocks"] = [
            ExactBlock(self, index, units)
            for index, units in enumerate(division)
        ]
        self.__dict__["units"] = units_of(model)
        self.__dict__["head"] = large_head(model)
        self.track_progress()
        self.built = True

    # The blocks' variables.

    def weights_of(self, index):
        """All variables of a block (list); each belongs to one block alone.

        What several layers hold, as a tied table, is the first one's. What no
        layer holds is the first block's.
        """
        return self._division()[index]

    def _division(self):
        seen, blocks = set(), []
        for block in self.blocks:
            own = {}
            for unit in block.units:
                for variable in unit.variables:
                    if id(variable) not in seen:
                        own[id(variable)] = variable
            seen.update(own)
            blocks.append(list(own.values()))
        rest = [v for v in self.model.variables if id(v) not in seen]
        return [[*rest, *blocks[0]], *blocks[1:]]

    def own_variables(self):
        """For each block, its trainable variables."""
        return [[v for v in own if v.trainable] for own in self._division()]

    def shared_variables(self):
        """None: the steps of one block change nothing of the others."""
        return []

    def layers_to_remat(self, index):
        """Composite layers from a block's first layer on (list).

        Those before all of the block's own have no backward pass.
        """
        own = {id(unit.layer) for unit in self.blocks[index].units}
        first = next(i for i, u in enumerate(self.units) if id(u.layer) in own)
        return [u.layer for u in self.units[first:] if u.is_composite]

    # What it computes.

    def call(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def predict(self, *args, **kwargs):
        """The network's own `predict`."""
        return self.model.predict(*args, **kwargs)

    def generate(self, *args, **kwargs):
        """The network's own `generate`."""
        return self.model.generate(*args, **kwargs)

    def compile(
        self,
        optimizer="adamw",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        block_order="shuffled",
        steps_per_visit=5,
        remat=False,
        **kwargs,
    ):
        """Configures training.

        Args:
            optimizer: name or `keras.optimizers.Optimizer`. Every block has
                one of its own with these settings. A schedule is written for
                all steps of `fit`; at its own step k a block has the learning
                rate of step B * k.
            loss, loss_weights, metrics, weighted_metrics: as in Keras. With
                no `loss`, it and the others of these that are not given are
                those the network was compiled with.
            block_order: `"shuffled"` (every block once in each round, in a
                new order), `"descending"` (the last block first),
                `"uniform"`, `"round_robin"`, a block or a list of weights.
            steps_per_visit: int. Consecutive steps of a block.
            remat: bool. True keeps of the network's repeated layers only
                their inputs, and computes them again in the backward pass.
            kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile` and
                `offload` of `BlockTrainer.compile`.

        Raises:
            ValueError: for values out of range, or a loss beside a
                `compute_loss` of the network's own. Without any loss, `fit`
                raises it.
        """
        others = "on_policy", "curriculum", "curriculum_steps"
        for name in (*others, "offload_parameters"):
            if kwargs.pop(name, None):
                raise ValueError(
                    "Each step of a network that was cut runs all of it. "
                    f"Received: {name}, which is for blocks with a loss of "
                    "their own. Leave it out."
                )
        self.remat = bool(remat)
        if self.remat and not self.layers_to_remat(0):
            raise ValueError(
                "`remat` computes layers again that hold layers of their own, "
                f"as a transformer's do. Received: {self.model.name}, in which "
                "none can be told apart. Leave it out."
            )
        given = loss
        if loss is None and self.model.compiled:
            wanted = compat.compile_arguments(self.model)
            loss = wanted["loss"]
            if loss_weights is None:
                loss_weights = wanted["loss_weights"]
            metrics = metrics or wanted["metrics"]
            weighted_metrics = weighted_metrics or wanted["weighted_metrics"]
        has_own = compat.overrides(self.model, "compute_loss")
        self.__dict__["compiled_loss"] = loss
        self.__dict__["chunked"] = (
            self.head is not None
            and not has_own
            and serves(loss, loss_weights, metrics, weighted_metrics)
        )
        if has_own:
            if given is not None or not self.model.compiled:
                raise ValueError(
                    "A `compute_loss` of the network's own reads what the "
                    f"network was compiled with. Received: loss={given!r}, and "
                    f"{self.model.name}, which is "
                    f"{'' if self.model.compiled else 'not '}compiled. Call "
                    "its `compile` with the loss."
                )
        super().compile(
            optimizer,
            loss,
            metrics,
            weighted_metrics,
            block_order=block_order,
            steps_per_visit=steps_per_visit,
            loss_weights=loss_weights,
            curriculum="sampled",
            **kwargs,
        )

    def own_schedule(self, schedule, block):
        return WholeSchedule(schedule, len(self.blocks_that_train()) or 1)

    def begin_curriculum(self, epochs, steps):
        """Called when `fit` begins: warns of blocks that will not train."""
        super().begin_curriculum(epochs, steps)
        if not epochs or not steps:
            return
        last = self.training_step() + epochs * steps
        idle = set(self.block_order.blocks)
        for step in range(0, last, self.block_order.steps_per_visit):
            idle.discard(self.block_order(step))
            if not idle:
                break
        if idle:
            warnings.warn(
                f"Blocks {', '.join(map(str, sorted(idle)))} have no turn in "
                f"the {last} steps up to the end of this `fit`. Compile with "
                "fewer `steps_per_visit`, or train for longer.",
                stacklevel=2,
            )

    def check_compile(self, loss, of_keras):
        """Takes any loss and `loss_weights`."""
        rest = {k: v for k, v in of_keras.items() if k != "loss_weights"}
        super().check_compile(None, rest)

    def training_loss(self, x, y, sample_weight):
        """Loss of a batch, a scalar; metrics are updated.

        A language model's logits are computed in chunks if they are large, the
        loss is Keras's cross-entropy and the metrics are its accuracy.
        """
        if self.chunked and self.head.chunks(y) > 1:
            with self.head.left_out():
                states = self(x, training=True)
            if compat.mask_of(states) is None:
                arguments = self.compiled_loss, y, states, sample_weight
                loss, *hits = self.head.loss_and_hits(*arguments)
                self._update_metrics(*hits, sample_weight)
                return sum(map(ops.sum, self.losses), loss)
            predicted = self.head.layer(states, **self.head.arguments)
        else:
            predicted = self(x, training=True)
        self._check_loss()
        loss = self.compute_loss(x, y, predicted, sample_weight, training=True)
        predicted = keras.tree.map_structure(_stopped, predicted)
        self._update_metrics(y, predicted, sample_weight)
        return loss

    def _update_metrics(self, y, predicted, sample_weight):
        metrics = compat.compile_metrics(self)
        if metrics is not None:
            metrics.update_state(y, predicted, sample_weight)

    def _check_loss(self):
        own = compat.overrides(self.model, "compute_loss")
        if self.compiled_loss is None and not (own or self.losses):
            raise ValueError(
                "`fit` needs a loss: that of `compile`, or one that layers "
                f"add. Received: none for {self.model.name}. Pass `loss` to "
                "`compile`."
            )

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        arguments = x, y, y_pred, sample_weight
        if compat.overrides(self.model, "compute_loss"):
            return compat.compute_loss(self, self.model, *arguments, training)
        return super().compute_loss(*arguments, training=training)

    # All blocks have one loss, so that of a block by itself says nothing.
    block_losses = ()

    def loss_trackers(self, index):
        return (compat.loss_tracker(self),)

    def train_one(self, data, *state):
        if not self._steps:  # metrics cannot be made inside a step
            compat.symbolic_build(self, data)
        return super().train_one(data, *state)

    def own_metric_variables(self):
        """State of all metrics but the running loss (list)."""
        known = {id(v) for v in compat.loss_tracker(self).variables}
        return [v for v in self.metrics_variables if id(v) not in known]

    # Data.

    def check_structure(self, x, y):
        """Takes whatever the network takes."""

    def check_rows(self, x, y, sample_weight):
        """Takes weights of any shape, of tokens for example."""
        check_rows(x, (y, sample_weight))

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit`, which trains a block at a time.

        A Keras Hub task preprocesses raw data as in its own `fit`.
        """
        x, y = self._prepare(x, y, kwargs)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        x, y = self._prepare(x, y, kwargs)
        return super().evaluate(x, y, *args, **kwargs)

    def _prepare(self, x, y, kwargs):
        preprocess = getattr(self.model, "preprocess_samples", None)
        if getattr(self.model, "preprocessor", None) is None or x is None:
            return x, y
        if compat.inside_fit(kwargs):
            return x, y
        validation = kwargs.get("validation_data")
        if validation is not None:
            if isinstance(validation, (tuple, list)):
                validation = _arrays(preprocess(*validation))
            else:
                validation = validation.map(preprocess)
            kwargs["validation_data"] = validation
        if hasattr(x, "map") and not hasattr(x, "to_numpy"):  # a dataset
            return x.map(preprocess), y
        data = _arrays(preprocess(x, y, kwargs.get("sample_weight")))
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if weight is not None:
            kwargs["sample_weight"] = weight
        return x, y

    # Files.

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["num_blocks"] = np.array(self.num_blocks)

    def load_own_variables(self, store):
        saved = "num_blocks" in store.keys() and int(store["num_blocks"][()])
        if saved != self.num_blocks:
            raise ValueError(
                "`load_weights` of a network that was cut takes what its own "
                f"`save_weights` wrote. Received: {saved or 'no'} blocks, and "
                f"this one has {self.num_blocks}. Load files of the network "
                "itself with the network's `load_weights`."
            )
        own = {key: store[key] for key in store.keys() if key != "num_blocks"}
        super().load_own_variables(own)

    def get_config(self):
        raise ValueError(
            "What is saved, cloned or pickled is the network itself. Received: "
            f"{self.name}, which only trains it. Take its `model`."
        )

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves the network, which loads without this package."""
        write = self.model.save
        self._write(write, ".keras", filepath, overwrite, **kwargs)

    def summary(self, print_fn=print, **kwargs):
        """Prints each block's layers, parameters and optimizer state."""
        head = ("block", "layers", "parameters", "optimizer state")
        rows = [head]
        optimizers = self.optimizer.parts if self.compiled else []
        for block, own in zip(self.blocks, self.own_variables(), strict=True):
            first, last = block.units[0].name, block.units[-1].name
            names = first if first == last else f"{first} to {last}"
            state = state_size(optimizers, block.index)
            rows.append((str(block.index), names, f"{count(own):,}", state))
        fixed = [v for v in self.model.weights if not v.trainable]
        if fixed:
            rows.append(("fixed", "", f"{count(fixed):,}", ""))
        print_fn(laid_out(self.model, rows))


def _arrays(data):
    def convert(leaf):
        if leaf is None:
            return None
        own = ops.is_tensor(leaf)  # Keras Hub's may be TensorFlow's
        return ops.convert_to_numpy(leaf) if own else np.asarray(leaf)

    return keras.tree.map_structure(convert, data)


def _stopped(tensor):
    """The tensor without gradient, with the mask that it carries."""
    stopped = ops.stop_gradient(tensor)
    mask = compat.mask_of(tensor)
    if mask is not None:
        compat.set_mask(stopped, mask)
    return stopped
