"""Trains all blocks with one `fit`; the gradient step is the backend's."""

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat, processes
from keras_dblocks.checks import (
    check_integer,
    check_share,
    is_integer,
    refuse_replicas,
)
from keras_dblocks.files.atomic_files import AtomicFiles
from keras_dblocks.training import curriculum as curricula
from keras_dblocks.training.block_optimizers import (
    BlockOptimizers,
    BlockSchedule,
    clone,
)
from keras_dblocks.training.block_order import BlockOrder
from keras_dblocks.training.data_checks import CheckedData
from keras_dblocks.training.data_order import ResumableOrder
from keras_dblocks.training.offload import check_offload
from keras_dblocks.training.stored_hand_overs import StoredHandOvers


class BlockTrainer(AtomicFiles, CheckedData, ResumableOrder, keras.Model):
    """`compile` and `fit` that draw one block for each batch.

    Only the drawn block's variables, which include the shared ones, are
    differentiated, and only they and their optimizer state are updated. The
    drawn block depends on (seed, step) alone. A subclass has `blocks`, a list
    of `TrainableBlock`, `num_blocks`, `seed`, `own_variables()` and
    `shared_variables()`.
    """

    # The share of a batch that the earlier blocks hand over with
    # `compile(on_policy="auto")`. Applications set what they measured.
    default_on_policy = 0.5

    joins_processes = True

    # `compile(curriculum="auto")` of a model that was not trained yet.
    default_curriculum = "sampled"

    offload, offload_parameters = None, False  # until `compile` sets them
    stored_hand_overs: StoredHandOvers | None = None
    _built_in = None
    _block_logs: Any = None  # the latest losses by name, while there are any

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adamw",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        on_policy: float | str = "auto",
        block_order: int | str | Sequence[float] = "uniform",
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        offload: str | None = None,
        offload_parameters: bool = False,
        steps_per_visit: int = 1,
        curriculum: str | Sequence[curricula.Phase] = "auto",
        curriculum_steps: int | None = None,
        store_hand_overs: os.PathLike | str | None = None,
        **of_keras: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: name or `keras.optimizers.Optimizer`, whose settings
                each block's own optimizer has. Every block follows a schedule
                in its own steps.
            loss: must be None, since blocks have their own loss.
            metrics, weighted_metrics: computed where the whole chain runs,
                which is in `evaluate` and validation.
            on_policy: float in [0, 1], the share of each batch whose noisy
                input is what the earlier blocks hand over
                (docs/method.md#on-policy-noise). 0 is the paper's method.
                `"auto"` is the class's default.
            block_order: `"uniform"`, `"round_robin"`, `"shuffled"` (every
                block once in each round, in a new order), `"descending"`, a
                block or a list of weights.
            run_eagerly, steps_per_execution, jit_compile: as in Keras.
            offload: None, or `"host"` to keep the optimizer state of idle
                blocks in host memory (JAX and PyTorch). It is moved while
                steps run, so that at most two blocks' state is on the device.
            offload_parameters: bool. True also moves idle blocks' own
                parameters. With `on_policy` above 0, a block needs those of
                all earlier blocks too, since the hand-over reads them.
                Parameters are back on the device after each epoch of `fit`
                and for `predict` and `evaluate`. On PyTorch, `eval()` brings
                them back at any other time.
            steps_per_visit: int. Consecutive steps that a block is drawn for.
                With more steps, less is moved.
            curriculum: which blocks are trained when, and what they start from:
                `"sampled"` (the paper's: one is drawn for each batch),
                `"in_sequence"`, `"equal_parts"`, `"common_start"`, or a list
                of `training.curriculum.Phase`. `"auto"` is the class's default
                for a model that is not trained yet, if neither `block_order`
                nor `on_policy=0` asks for something else and no shared part is
                in the way; otherwise `"sampled"`. After the curriculum, blocks
                are drawn. A learning-rate schedule, written for the steps of
                one of equally long phases (all steps by `num_blocks`), is gone
                through as a whole in each phase. Callbacks that stop training
                end the whole curriculum.
            curriculum_steps: int, the length of the curriculum in steps.
                Defaults to the length of the first `fit`. It is saved with
                the model.
            store_hand_overs: folder, or None. What the earlier blocks hand over
                is kept there for each row, and read when the row comes again,
                instead of run in each step; see
                `training.stored_hand_overs.StoredHandOvers`. For arrays, and
                blocks that are trained one after another without shared parts,
                whose hand-overs do not begin with noise.

        Raises:
            ValueError: for a loss, for values out of range, and for what
                blocks have no use for (`loss_weights`, loss scaling, a
                `MultiOptimizer`).
        """
        refuse_replicas(self)
        self.check_compile(loss, of_keras)
        self._refuse_own_steps()
        if not self.built:
            self.build()
        independent = on_policy != "auto" and not on_policy
        if on_policy == "auto":
            on_policy = self.default_on_policy
        check_share("on_policy", on_policy, 'Use "auto", the default.')
        plan = self._plan(curriculum, independent, block_order)
        if curriculum_steps is not None:
            check_integer("curriculum_steps", curriculum_steps)
        check_offload(offload, offload_parameters)
        if store_hand_overs is not None:
            self._check_storing(plan, block_order, on_policy, offload)
        self.bring_home()  # in case an epoch was interrupted
        self.block_order = BlockOrder(
            block_order, self.num_blocks, self.seed, steps_per_visit
        )
        self.offload = offload
        self.offload_parameters = bool(offload_parameters)
        self.on_policy = float(on_policy)
        self.stored_hand_overs = (
            None
            if store_hand_overs is None
            else StoredHandOvers(self, store_hand_overs)
        )
        # For `train_on_batch`; `fit` sets it anew.
        self._next_step: Any = None
        template = keras.optimizers.get(optimizer)
        refuse_optimizer(template)
        plain = {
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
        }
        # Metrics among them were tracked as the model's own otherwise.
        self.__dict__["_compile_arguments"] = {
            "optimizer": template,
            "on_policy": self.on_policy,
            "block_order": block_order,
            "offload": offload,
            "offload_parameters": self.offload_parameters,
            "steps_per_visit": steps_per_visit,
            "curriculum": curricula.as_config(curriculum),
            "curriculum_steps": curriculum_steps,
            "store_hand_overs": store_hand_overs and str(store_hand_overs),
            **plain,
        }
        optimizers, schedules = self._make_optimizers(template, bool(plan))
        self.__dict__["curriculum_run"] = curricula.CurriculumRun(
            self, plan, curriculum_steps, schedules
        )
        if plan is not None:
            self.curriculum_length.assign(0)
        super().compile(
            optimizer=optimizers,
            loss=loss,
            loss_weights=of_keras.get("loss_weights"),
            **plain,
        )

    def check_compile(self, loss: Any, of_keras: dict[str, Any]) -> None:
        """Refuses a loss, and settings of Keras that blocks have no use for.

        Args:
            loss: as `compile` got it.
            of_keras: dict of the arguments that `compile` does not name.
        """
        refuse_loss(loss)
        refuse_settings(of_keras)

    def _plan(self, curriculum, independent, block_order):
        """The `Curriculum` that `compile` was asked for, or None."""
        asked = curriculum
        if curriculum == "auto":
            fresh = not any(block.was_trained() for block in self.blocks)
            fresh = fresh and not self._is_adapted()
            uniform = isinstance(block_order, str) and block_order == "uniform"
            free = fresh and uniform and not independent
            curriculum = self.default_curriculum if free else "sampled"
        plan = curricula.get(curriculum, self.num_blocks)
        if plan is None or not self.shared_variables():
            return plan
        if all(p.block is None or p.as_only_block for p in plan.phases):
            return plan
        if asked == "auto":
            return None
        raise ValueError(
            "A block that is trained alone would change what the others share "
            f"with it. Received: curriculum={asked!r} of a model with "
            'shared parts. Build it with sharing="targets".'
        )

    def _check_storing(self, plan, block_order, on_policy, offload):
        """Refuses to store hand-overs that would not stay what they are."""
        one_by_one = is_integer(block_order) or (
            plan is not None and any(p.block is not None for p in plan.phases)
        )
        for wrong, came, cure in (
            (
                self.num_blocks == 1,
                "one block",
                "Leave `store_hand_overs` out.",
            ),
            (not on_policy, "on_policy=0", "Leave `store_hand_overs` out."),
            (
                not one_by_one,
                "blocks that are drawn, which change all the time",
                'Pass curriculum="in_sequence".',
            ),
            (
                self.shared_variables(),
                "blocks that share parts, which change in each step",
                'Build the model with sharing="targets".',
            ),
            (offload, f"offload={offload!r}", "Leave one of them out."),
            (
                processes.count() > 1,
                f"{processes.count()} processes",
                "Train in one, or leave `store_hand_overs` out.",
            ),
        ):
            if wrong:
                raise ValueError(
                    "`store_hand_overs` keeps what blocks hand over that do "
                    f"not change. Received: {came}. {cure}"
                )

    def _refuse_own_steps(self):
        kinds = type(self).__mro__
        for kind in kinds[: kinds.index(BlockTrainer)]:
            own = {"train_step", "compute_loss"} & set(vars(kind))
            if own and not kind.__module__.startswith("keras_dblocks."):
                raise ValueError(
                    "A block's loss is that of its `Target`. Received: "
                    f"{kind.__name__} with `{own.pop()}` of its own, which "
                    "`fit` would not call. Override `make_target` and return "
                    "a `Target` with the `loss` that you want."
                )

    def _is_adapted(self):
        """Whether a part is frozen or has LoRA: weights are no first ones."""
        return any(
            not layer.trainable or getattr(layer, "lora_enabled", False)
            for block in self.blocks
            for layer in compat.sublayers(block)
        )

    def _make_optimizers(self, template, phased):
        """Optimizers of all groups, and their schedules in a curriculum."""
        groups = self._variable_groups()
        self.__dict__["_groups"] = groups
        joint = template.gradient_accumulation_steps is None
        clip = template.global_clipnorm if joint else None
        optimizers = [clone(template, joint) for _ in groups]
        schedules = []
        for i, optimizer in enumerate(optimizers):
            schedule = compat.schedule(optimizer)
            if not isinstance(
                schedule, keras.optimizers.schedules.LearningRateSchedule
            ):
                continue
            block = i if i < self.num_blocks else None
            if phased:
                schedule = curricula.PhasedSchedule(schedule)
                schedules.append((block, schedule))
            else:
                schedule = self.own_schedule(schedule, block)
            compat.set_schedule(optimizer, schedule)
        count = self.num_blocks
        return BlockOptimizers(optimizers, groups, clip, count), schedules

    def own_schedule(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        block: int | None,
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """A schedule that `compile` got, in the steps of one optimizer.

        Args:
            schedule: `LearningRateSchedule`.
            block: int, or None for the optimizer of what is shared, which
                steps whenever any block does.
        """
        if block is not None:
            return schedule
        return BlockSchedule(schedule, self.num_blocks)

    def _variable_groups(self):
        # A group for each block, then one for shared variables if any train.
        shared = self.shared_variables()
        return [*self.own_variables(), *([shared] if shared else [])]

    def block_optimizer(self, index: int) -> BlockOptimizers:
        """The optimizers of block `index` and of shared variables, as one."""
        whole, groups = self.optimizer, self._groups
        chosen = [index, *range(self.num_blocks, len(groups))]
        return BlockOptimizers(
            [whole.parts[i] for i in chosen],
            [[v for v in groups[i] if v.trainable] for i in chosen],
            whole.joint_clipnorm,
        )

    def blocks_that_train(self) -> list[int]:
        """Numbers of the blocks that have something to train (list)."""
        return [b.index for b in self.blocks if b.trainable_variables]

    def get_compile_config(self):
        if not self.compiled:
            return {}
        serialize = keras.saving.serialize_keras_object
        return {k: serialize(v) for k, v in self._compile_arguments.items()}

    def compile_from_config(self, config):
        deserialize = keras.saving.deserialize_keras_object
        self.compile(**{k: deserialize(v) for k, v in config.items()})

    def training_step(self) -> int:
        """Number of steps taken, of which each steps one block's optimizer."""
        return sum(int(count) for count in self.step_counts())

    def step_counts(self) -> list[keras.Variable]:
        """Variables that count the steps of each block."""
        optimizers = self.optimizer.parts[: self.num_blocks]
        return [compat.iterations(optimizer) for optimizer in optimizers]

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit` that trains one block with each batch.

        See `CheckedData.fit` for what differs from Keras. In the logs a block
        that an epoch did not draw has its last loss, and NaN before its first.
        """
        self._next_step = None  # the first batch reads it from the optimizers
        self._block_logs = None  # reads what was saved
        if self.compiled and self.built:
            self._take_changes()
        history = super().fit(x, y, *args, **kwargs)
        self._remember_losses()
        return history

    def _take_changes(self):
        """Compiles steps anew if other variables train than the last time."""
        trains = tuple(v.trainable for group in self._groups for v in group)
        now = trains, self.optimizer.changes
        if now != self._built_in:
            self.train_function = None
        self._built_in = now
        blocks = self.blocks_that_train()
        if blocks == self.block_order.blocks:
            return
        self.block_order = self.block_order.of_blocks(blocks)
        idle = [i for i in range(self.num_blocks) if i not in blocks]
        if idle:
            warnings.warn(
                f"Nothing in block {', '.join(map(str, idle))} is trainable, "
                "so it is not drawn.",
                stacklevel=3,
            )

    def train_one(
        self, data: tuple, read_step: Callable[[], int], *state: Any
    ) -> dict[str, Any]:
        """Trains the block whose turn it is on one batch.

        Args:
            data: a batch, as Keras provides it.
            read_step: function that returns the number of steps taken. It is
                called once in each `fit`.
            state: on JAX, the four lists that hold all variables' values.

        Returns:
            Dict of the latest losses of all blocks.
        """
        if self._next_step is None:
            self._next_step = read_step()
        if self._block_logs is None:
            self._remember_losses()
        for copy in self.curriculum_run.copies(self._next_step):
            _import_step().assign(self, self._pairs_to_copy(*copy), *state)
        number = self._next_step
        index, as_only_block = key = self._turn(number)
        self._next_step += 1
        if key not in self._steps:
            self._steps[key] = _import_step().make_step(
                self, index, as_only_block
            )
        step, stored = self._steps[key], {}
        if self._stores(number, *key):
            turn = index, self.curriculum_run.number(number)
            stored["handed"] = self.stored_hand_overs.of_step(  # type: ignore[union-attr]
                turn, number, step, data, state
            )
        self._block_logs.update(step(data, *state, **stored))
        return dict(self._block_logs)

    def _stores(self, step, index, as_only_block):
        """Whether a step reads what is handed over, or keeps it."""
        if self.stored_hand_overs is None or not index or as_only_block:
            return False
        phase = self.curriculum_run.phase(step)
        if phase is None:
            return is_integer(self.block_order.order)
        return phase.block == index

    def block_of(self, step: int) -> int:
        """Number of the block that step `step` trains, both counted from 0."""
        return self._turn(step)[0]

    def _turn(self, step):
        """The block of a step, and whether it trains as the only one."""
        phase = self.curriculum_run.phase(step)
        if phase is None or phase.block not in self.block_order.blocks:
            return self.block_order(step), False
        return phase.block, phase.as_only_block

    def _pairs_to_copy(self, source, target):
        """Each variable of block `target`, and the one whose value it gets."""
        pairs = zip(
            self.blocks[target].copied_variables(),
            self.blocks[source].copied_variables(),
            strict=True,
        )
        return [(mine, its) for mine, its in pairs if mine is not its]

    def own_callbacks(self, batches):
        return [*super().own_callbacks(batches), CurriculumCallback(batches)]

    def begin_curriculum(self, epochs: int | None, steps: int | None) -> None:
        """Called when `fit` begins, after a backup was restored."""
        processes.begin_fit(self, epochs, steps)
        if self.curriculum_run.begin(epochs, steps):
            self.make_train_function(force=True)

    def end_curriculum(self) -> None:
        """Called when `fit` ends, perhaps before the curriculum does."""
        step = self.training_step()
        for copy in self.curriculum_run.copies_at_the_end(step):
            for mine, its in self._pairs_to_copy(*copy):
                # A copy: on JAX, the next step donates its buffers.
                mine.assign(np.array(ops.convert_to_numpy(its)))

    def track_progress(self) -> None:
        """Also remembers the blocks' last losses, for the logs."""
        super().track_progress()
        self.last_losses = self.add_weight(
            shape=(len(self.block_losses),),
            initializer=keras.initializers.Constant(np.inf),  # unknown
            dtype="float32",
            trainable=False,
            name="last_losses",
        )
        self.curriculum_length = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="curriculum_length",
        )

    def counters(self):
        counted = self.last_losses, self.curriculum_length
        return [*super().counters(), *counted]

    def upcoming_block(self) -> int:
        """Block of the step after the current one."""
        return self.block_of(self._next_step)

    def bring_home(self) -> None:
        """Puts offloaded parameters back into device memory."""
        if self.offload_parameters:
            _import_step("_offload").bring_home(self)

    def jax_state_sync(self) -> None:
        """Keras calls it on JAX before variables are read."""
        self.bring_home()
        super().jax_state_sync()

    def train(self, mode: bool = True) -> Any:
        """PyTorch's `train`; `eval()`, which Keras calls, is `train(False)`."""
        if not mode:
            self.bring_home()
        return super().train(mode)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        self._steps = {}  # filled when a block is drawn for the first time
        self.train_function = _import_step().make_train_function(self)

    def loss_trackers(self, index: int) -> tuple:
        """Running means that a step of block `index` updates."""
        return compat.loss_tracker(self), self.block_losses[index]

    def reset_metrics(self):
        super().reset_metrics()
        self._remember_losses()

    def _remember_losses(self):
        """Lets the logs name every block, also one that is not drawn yet.

        Its loss in the logs is that of an earlier epoch or `fit`, or NaN.
        """
        names = [metric.name for metric in self.block_losses]
        if self._block_logs:
            latest = [float(self._block_logs[name]) for name in names]
            self.last_losses.assign(np.nan_to_num(latest, nan=np.inf))
        last = ops.convert_to_numpy(self.last_losses)
        last = np.where(np.isfinite(last), last, np.nan).tolist()
        self._block_logs = dict(zip(names, last, strict=True))

    def get_metrics_result(self):
        found = super().get_metrics_result()
        for metric in self.block_losses:
            last = (self._block_logs or {}).get(metric.name, float("nan"))
            value = found[metric.name]
            found[metric.name] = ops.where(metric.count > 0, value, last)
        return found


class CurriculumCallback(keras.callbacks.Callback):
    """Tells a `BlockTrainer` when `fit` begins and ends.

    Args:
        batches: what `fit` takes batches from.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_train_begin(self, logs=None):
        params = self.params or {}
        self.model.begin_curriculum(params.get("epochs"), params.get("steps"))
        if self.model.stored_hand_overs is not None:
            self.model.stored_hand_overs.begin(self.batches)

    def on_train_end(self, logs=None):
        self.model.end_curriculum()
        if self.model.stored_hand_overs is not None:
            self.model.stored_hand_overs.flush()


def refuse_loss(loss):
    """Raises a ValueError for a loss, since blocks have their own."""
    if loss is not None:
        raise ValueError(
            "Blocks are trained on a loss of their own, so `loss` stays None. "
            f"Received: loss={loss!r}. Leave it out; `loss_weighting` in the "
            "constructor is the dial."
        )


def refuse_settings(settings):
    """Raises a ValueError for arguments of Keras's `compile` without use."""
    for name, value in settings.items():
        if value is not None and (name, value) != ("auto_scale_loss", True):
            raise ValueError(
                "`compile` takes what concerns blocks. Received: "
                f"{name}={value!r}. Leave it out; see the docstring."
            )


def refuse_optimizer(optimizer):
    """Raises a ValueError for optimizers that cannot be one for each block."""
    if getattr(optimizer, "loss_scale_factor", None) is not None:
        raise ValueError(
            "Blocks take their gradients without loss scaling. Received: "
            f"loss_scale_factor={optimizer.loss_scale_factor}. Leave it out, "
            'and use dtype="mixed_bfloat16", which needs none.'
        )
    if isinstance(
        optimizer,
        (keras.optimizers.LossScaleOptimizer, keras.optimizers.MultiOptimizer),
    ):
        raise ValueError(
            "Each block makes an optimizer of its own with the settings of "
            f"one. Received: a {type(optimizer).__name__}. Pass a plain "
            'optimizer, and dtype="mixed_bfloat16", which needs no scaling.'
        )


def _import_step(kind=""):
    name = f"keras_dblocks.training.{keras.backend.backend()}{kind}_step"
    return importlib.import_module(name)
