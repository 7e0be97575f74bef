"""A network that exists, trained a block at a time."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat
from keras_dblocks.checks import check_rows
from keras_dblocks.cutting.cut_block import CutBlock
from keras_dblocks.cutting.large_head import LargeHead, large_head, serves
from keras_dblocks.cutting.units import Unit
from keras_dblocks.files.random_states import SavedRandomStates
from keras_dblocks.table import count, laid_out, state_size
from keras_dblocks.training.trainer import BlockTrainer


class CutModel(SavedRandomStates, BlockTrainer):
    """Trains a network's blocks in turn; `cut` makes it.

    `fit`, `evaluate`, `predict` and `generate` take what the network's own
    take. `save` writes the network, as its own `save` does, and
    `save_weights` what a run needs to be continued.

    A subclass says what a block's loss is.

    Args:
        model: built `keras.Model`.
        division: list of lists of `Unit`, one for each block.
        seed: int.

    Example:

    ```python
    cut = keras_dblocks.cut(network, num_blocks=2)
    cut.compile("adamw", "mse")
    cut.fit(x, y)
    cut.model is network  # which was trained
    ```
    """

    # What blocks are made of: `block_class(network, index, units)`.
    block_class: type[Any] = CutBlock

    def __init__(
        self,
        model: keras.Model,
        division: Sequence[Sequence[Unit]],
        seed: int = 0,
    ) -> None:
        # PyTorch takes no dots in names of parameters.
        super().__init__(name=f"{model.name}_in_blocks".replace(".", "_"))
        compat.takes_inputs_as_they_are(self)
        self.model = model
        if hasattr(model, "output_names"):  # that losses and metrics are for
            self.output_names = model.output_names
        self.seed = seed
        self.num_blocks = len(division)
        self.__dict__["blocks"] = [
            self.block_class(self, index, units)
            for index, units in enumerate(division)
        ]
        self.__dict__["head"] = large_head(model)

    def finish(self) -> None:
        """Called when a subclass has made all that it holds."""
        self.track_progress()
        self.built = True

    # The blocks' variables.

    def weights_of(self, index: int) -> list[keras.Variable]:
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

    def own_variables(self) -> list[list[keras.Variable]]:
        """For each block, its trainable variables."""
        return [[v for v in own if v.trainable] for own in self._division()]

    def shared_variables(self) -> list[keras.Variable]:
        """None: the steps of one block change nothing of the others."""
        return []

    # What it computes.

    def call(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own `predict`."""
        return self.model.predict(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own `generate`."""
        return self.model.generate(*args, **kwargs)

    def compile(  # type: ignore[override]
        self,
        optimizer: str | keras.optimizers.Optimizer = "adamw",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        remat: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures training; see `compile` of the subclasses."""
        for name in ("on_policy", "offload_parameters"):
            if kwargs.pop(name, None):
                raise ValueError(
                    "What a step of a network that was cut runs follows from "
                    f"the network. Received: {name}, which is for networks "
                    "written for blocks. Leave it out."
                )
        self.remat = bool(remat)
        layers = [self.layers_to_remat(i) for i in range(self.num_blocks)]
        if self.remat and not any(layers):
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
            loss_weights=loss_weights,
            **kwargs,
        )

    def check_compile(self, loss: Any, of_keras: dict[str, Any]) -> None:
        """Takes any loss and `loss_weights`."""
        rest = {k: v for k, v in of_keras.items() if k != "loss_weights"}
        super().check_compile(None, rest)

    def training_loss(
        self,
        data: tuple,
        predict: Callable[[], Any],
        head: LargeHead | None = None,
    ) -> Any:
        """Loss of a batch, a scalar; metrics are updated.

        A language model's logits are computed in chunks if they are large, the
        loss is Keras's cross-entropy and the metrics are its accuracy.

        Args:
            data: tuple `(x, y, sample_weight)` of a batch of `fit`.
            predict: function of no arguments that returns the prediction.
            head: `LargeHead` that `predict` ends in, or None.
        """
        x, y, sample_weight = data
        if self.chunked and head is not None and head.chunks(y) > 1:
            with head.left_out():
                states = predict()
            if compat.mask_of(states) is None:
                arguments = self.compiled_loss, y, states, sample_weight
                loss, *hits = head.loss_and_hits(*arguments)
                self._update_metrics(*hits, sample_weight)  # type: ignore[call-arg]
                return sum(map(ops.sum, self.losses), loss)
            predicted = head.layer(states, **head.arguments)
        else:
            predicted = predict()
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

    def train_one(self, data, *state):
        if not self._steps:  # metrics cannot be made inside a step
            compat.symbolic_build(self, data)
        return super().train_one(data, *state)

    def own_metric_variables(self) -> list[keras.Variable]:
        """State of all metrics but the running losses (list)."""
        trackers = compat.loss_tracker(self), *self.block_losses
        known = {id(v) for tracker in trackers for v in tracker.variables}
        return [v for v in self.metrics_variables if id(v) not in known]

    # Data.

    def check_structure(self, x: Any, y: Any) -> None:
        """Takes whatever the network takes."""

    def check_rows(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Takes weights of any shape, of tokens for example."""
        check_rows(x, (y, sample_weight))

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit`, which trains a block at a time.

        A Keras Hub task preprocesses raw data as in its own `fit`.
        """
        x, y = self._prepare(x, y, kwargs)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
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

    def save(
        self, filepath: os.PathLike | str, overwrite: bool = True, **kwargs: Any
    ) -> None:
        """Saves the network, which loads without this package."""
        write = self.model.save
        self._write(write, ".keras", filepath, overwrite, **kwargs)

    def summary(
        self, print_fn: Callable[[str], Any] = print, **kwargs: Any
    ) -> None:
        """Prints each block's layers, parameters and optimizer state."""
        head = "block", "layers", "parameters", "optimizer state"
        rows = [(*head, *self.summary_columns())]
        optimizers = self.optimizer.parts if self.compiled else []
        for block, own in zip(self.blocks, self.own_variables(), strict=True):
            first, last = block.units[0].name, block.units[-1].name
            names = first if first == last else f"{first} to {last}"
            state = state_size(optimizers, block.index)
            row = str(block.index), names, f"{count(own):,}", state
            rows.append((*row, *self.summary_columns(block.index)))
        fixed = [v for v in self.model.weights if not v.trainable]
        if fixed:
            empty = [""] * len(self.summary_columns())
            rows.append(("fixed", "", f"{count(fixed):,}", "", *empty))
        print_fn(laid_out(self.model, rows))

    def summary_columns(self, index: int | None = None) -> tuple[str, ...]:
        """What else `summary` says of a block, or the columns' names."""
        return ()


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
