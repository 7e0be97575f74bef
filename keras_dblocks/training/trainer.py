"""Trains all blocks with one `fit`; the gradient step is the backend's."""

import importlib

import keras

from keras_dblocks import compat
from keras_dblocks.checks import check_share
from keras_dblocks.files.atomic_files import AtomicFiles
from keras_dblocks.training.block_optimizers import BlockOptimizers, clone
from keras_dblocks.training.block_order import BlockOrder
from keras_dblocks.training.data_checks import CheckedData
from keras_dblocks.training.data_order import ResumableOrder, is_array
from keras_dblocks.training.offload import check_offload


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

    offload, offload_parameters = None, False  # until `compile` sets them

    def compile(
        self,
        optimizer="adamw",
        loss=None,
        metrics=None,
        weighted_metrics=None,
        on_policy="auto",
        block_order="uniform",
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        offload=None,
        offload_parameters=False,
        steps_per_visit=1,
    ):
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
            block_order: `"uniform"`, `"round_robin"`, a block or a list of
                weights.
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

        Raises:
            ValueError: for a loss, or values out of range.
        """
        refuse_loss(loss)
        if not self.built:
            self.build()
        if on_policy == "auto":
            on_policy = self.default_on_policy
        check_share("on_policy", on_policy, 'Use "auto", the default.')
        check_offload(offload, offload_parameters)
        self.bring_home()  # in case an epoch was interrupted
        self.block_order = BlockOrder(
            block_order, self.num_blocks, self.seed, steps_per_visit
        )
        self.offload = offload
        self.offload_parameters = bool(offload_parameters)
        self.on_policy = float(on_policy)
        # These values are for `train_on_batch`; `fit` sets them anew.
        self._next_step, self._batches_seen = None, 0
        self._checks_stream = True
        self._block_logs = {}
        template = keras.optimizers.get(optimizer)
        plain = {
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
        }
        self._compile_arguments = {
            "optimizer": template,
            "on_policy": self.on_policy,
            "block_order": block_order,
            "offload": offload,
            "offload_parameters": self.offload_parameters,
            "steps_per_visit": steps_per_visit,
            **plain,
        }
        optimizers = self._make_optimizers(template)
        super().compile(optimizer=optimizers, loss=None, **plain)

    def _make_optimizers(self, template):
        groups = self._variable_groups()
        joint = template.gradient_accumulation_steps is None
        clip = template.global_clipnorm if joint else None
        optimizers = [
            # The shared optimizer steps whenever any block does.
            clone(
                template, self.num_blocks if i == self.num_blocks else 1, joint
            )
            for i in range(len(groups))
        ]
        return BlockOptimizers(optimizers, groups, clip)

    def _variable_groups(self):
        # A group for each block, then one for shared variables if any train.
        shared = self.shared_variables()
        return [*self.own_variables(), *([shared] if shared else [])]

    def block_optimizer(self, index):
        """The optimizers of block `index` and of shared variables, as one."""
        whole, groups = self.optimizer, self._variable_groups()
        chosen = [index, *range(self.num_blocks, len(groups))]
        return BlockOptimizers(
            [whole.optimizers[i] for i in chosen],
            [groups[i] for i in chosen],
            whole.joint_clipnorm,
        )

    def get_compile_config(self):
        if not self.compiled:
            return {}
        serialize = keras.saving.serialize_keras_object
        return {k: serialize(v) for k, v in self._compile_arguments.items()}

    def compile_from_config(self, config):
        deserialize = keras.saving.deserialize_keras_object
        self.compile(**{k: deserialize(v) for k, v in config.items()})

    def training_step(self):
        """Number of steps taken, of which each steps one block's optimizer."""
        return sum(int(count) for count in self.step_counts())

    def step_counts(self):
        """Variables that count the steps of each block."""
        optimizers = self.optimizer.optimizers[: self.num_blocks]
        return [compat.iterations(optimizer) for optimizer in optimizers]

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit` that trains one block with each batch.

        See `CheckedData.fit` for what differs from Keras.
        """
        self._next_step = None  # the first batch reads it from the optimizers
        self._batches_seen = 0
        self._checks_stream = not is_array(x)
        return super().fit(x, y, *args, **kwargs)

    def check_next(self, data):
        """Refuses a bad batch of a dataset; arrays were checked before."""
        self._batches_seen += 1
        if self._checks_stream:
            self.check_batch(data, self._batches_seen)

    def train_one(self, data, read_step, *state):
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
        index = self.block_order(self._next_step)
        self._next_step += 1
        if index not in self._steps:
            self._steps[index] = _import_step().make_step(self, index)
        self._block_logs.update(self._steps[index](data, *state))
        return dict(self._block_logs)

    def upcoming_block(self):
        """Block of the step after the current one."""
        return self.block_order(self._next_step)

    def bring_home(self):
        """Puts offloaded parameters back into device memory."""
        if self.offload_parameters:
            _import_step("_offload").bring_home(self)

    def jax_state_sync(self):
        """Keras calls it on JAX before variables are read."""
        self.bring_home()
        super().jax_state_sync()

    def train(self, mode=True):
        """PyTorch's `train`; `eval()`, which Keras calls, is `train(False)`."""
        if not mode:
            self.bring_home()
        return super().train(mode)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        self._steps = {}  # filled when a block is drawn for the first time
        self.train_function = _import_step().make_train_function(self)

    def loss_trackers(self, index):
        """Running means that a step of block `index` updates."""
        return compat.loss_tracker(self), self.block_losses[index]

    def reset_metrics(self):
        super().reset_metrics()
        self._block_logs = {}


def refuse_loss(loss):
    """Raises a ValueError for a loss, since blocks have their own."""
    if loss is not None:
        raise ValueError(
            "Blocks are trained on a loss of their own, so `loss` stays None. "
            f"Received: loss={loss!r}. Leave it out; `loss_weighting` in the "
            "constructor is the dial."
        )


def _import_step(kind=""):
    name = f"keras_dblocks.training.{keras.backend.backend()}{kind}_step"
    return importlib.import_module(name)
