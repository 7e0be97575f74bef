"""Training all blocks with one `fit`: everything but the gradient step."""

import importlib

import keras
from keras import ops, tree

from keras_dblocks.models.block import refuse_loss
from keras_dblocks.models.checks import check_share
from keras_dblocks.models.durable_model import DurableModel
from keras_dblocks.samplers import hand_over
from keras_dblocks.training.array_batches import is_array
from keras_dblocks.training.block_optimizers import BlockOptimizers, clone
from keras_dblocks.training.block_order import BlockOrder
from keras_dblocks.training.offload import check_offload


class BlockTrainer(DurableModel):
    """`compile` and `fit` that draw one block per batch.

    Only the drawn block's variables are differentiated, updated and given
    optimizer state. The blocks drawn depend on (seed, step) alone.
    """

    # Share of a batch that is handed over by the earlier blocks when
    # `compile(on_policy="auto")`; applications set what they measured.
    default_on_policy = 0.5

    offload, offload_parameters = None, False  # until `compile`

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
            optimizer: name or `keras.optimizers.Optimizer`; the settings each
                block's own optimizer is made with. A schedule is followed by
                every block in its own steps.
            loss: must stay None: blocks are trained on the denoising loss.
            metrics, weighted_metrics: computed where the whole chain runs,
                in `evaluate` and validation.
            on_policy: float in [0, 1], the share of each batch whose noisy
                input is what the earlier blocks hand over (METHOD 9). 0 is
                the paper's method. `"auto"`: the measured default.
            block_order: `"uniform"`, `"round_robin"`, a block or a list of
                weights.
            run_eagerly, steps_per_execution, jit_compile: as in Keras.
            offload: None, or `"host"` to keep the optimizer state of idle
                blocks in host memory (JAX and PyTorch); it is moved while
                steps run, so that two blocks' state is on the device at most.
            offload_parameters: bool. Idle blocks' own parameters move too.
                With `on_policy` above 0 those of earlier blocks come along
                with a block, since the hand-over reads them. They are back
                after each epoch of `fit` and for `predict` and `evaluate`;
                on PyTorch, `eval()` brings them back at any other time.
            steps_per_visit: int. Steps in a row for which a block is drawn;
                more of them mean less moving.

        Raises:
            ValueError: for a loss, or values out of range.
        """
        refuse_loss(loss)
        if not self.built:
            self.build()
        if on_policy == "auto":
            on_policy = 0.0 if self.reference else self.default_on_policy
        check_share("on_policy", on_policy, 'Use "auto", the default.')
        check_offload(offload, offload_parameters)
        self.bring_home()  # in case an epoch was cut short
        self.block_order = BlockOrder(
            block_order, self.num_blocks, self.seed, steps_per_visit
        )
        self.offload = offload
        self.offload_parameters = bool(offload_parameters)
        self.on_policy = float(on_policy)
        # For `train_on_batch`; `fit` sets them anew.
        self._next_step, self._batches_seen = None, 0
        self._checks_stream = True
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
            # What is shared takes a step in every block's step.
            clone(
                template, self.num_blocks if i == self.num_blocks else 1, joint
            )
            for i in range(len(groups))
        ]
        return BlockOptimizers(optimizers, groups, clip)

    def _variable_groups(self):
        # One for each block, then one for the shared parts if they train.
        shared = self.shared_variables()
        return [*self.own_variables(), *([shared] if shared else [])]

    def block_optimizer(self, index):
        """The optimizers of block `index` and of the shared parts, as one."""
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
        """Steps taken: each moves exactly one block's optimizer."""
        blocks = self.optimizer.optimizers[: self.num_blocks]
        return sum(int(optimizer._iterations) for optimizer in blocks)

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit` that trains one block per batch.

        See `DurableModel.fit` for what differs from Keras.
        """
        self._next_step = None  # read from the optimizers at the first batch
        self._batches_seen = 0
        self._checks_stream = not is_array(x)
        return super().fit(x, y, *args, **kwargs)

    def next_block(self, read_step):
        """Block of the next step; `read_step()` is asked once per `fit`."""
        if self._next_step is None:
            self._next_step = read_step()
        block = self.block_order(self._next_step)
        self._next_step += 1
        return block

    def upcoming_block(self):
        """Block of the step after the one under way."""
        return self.block_order(self._next_step)

    def bring_home(self):
        """Puts offloaded parameters back into device memory."""
        if self.offload_parameters:
            _import_step("_offload").bring_home(self)

    def jax_state_sync(self):
        """Keras's on JAX, called before anyone reads variables."""
        self.bring_home()
        super().jax_state_sync()

    def train(self, mode=True):
        """PyTorch's; `eval()`, which Keras calls too, is `train(False)`."""
        if not mode:
            self.bring_home()
        return super().train(mode)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        self.train_function = _import_step().make_train_function(self)

    def check_batch(self, data):
        """Refuses a bad batch of a stream, where it lies in host memory.

        Arrays were checked whole; on an accelerator a look would cost a
        transfer.
        """
        self._batches_seen += 1
        if not self._checks_stream:
            return
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        leaves = [leaf for leaf in tree.flatten((x, y)) if leaf is not None]
        if not all("cpu" in str(leaf.device).lower() for leaf in leaves):
            return
        try:
            self.check_data(x, y)
        except ValueError as error:
            number = self._batches_seen
            raise ValueError(f"Batch {number} of `fit`: {error}") from error

    def training_loss(self, index, x, y, sample_weight, handed, bounds=None):
        """Loss of one block and its layers; called under the gradient."""
        block = self.blocks[index]
        loss = block.denoising_loss(x, y, sample_weight, handed, bounds=bounds)
        return sum(block.losses, loss)

    def loss_trackers(self, index):
        """Running means that a step of block `index` updates."""
        return self._loss_tracker, self.block_losses[index]

    def track_loss(self, index, loss, x):
        """Updates the running losses and returns their values."""
        weight = self.batch_size_of(x)
        trackers = self.loss_trackers(index)
        for tracker in trackers:
            tracker.update_state(loss, sample_weight=weight)
        return {tracker.name: tracker.result() for tracker in trackers}

    def hand_over(self, index, x, y, training=True):
        """On-policy share of a batch for block `index`, or None."""
        part = self.share_handed_over(x, y)
        return None if part is None else hand_over(self, index, part, training)

    def share_handed_over(self, x, y):
        """Condition of the examples that are handed over, or None."""
        if not self.on_policy:
            return None
        _, condition = self.split(x, y)
        batch = self.batch_size_of(condition)
        if isinstance(batch, int):
            count = int(batch * self.on_policy + 0.5)
            if count == 0:
                return None
        else:  # TensorFlow, unknown until the step runs
            share = ops.cast(batch, "float32") * self.on_policy
            count = ops.cast(share + 0.5, "int32")
        return tree.map_structure(lambda t: t[:count], condition)

    def first_state(self, index, condition, training):
        """What hand-overs to block `index` begin with: states, levels."""
        seed = self.blocks[index].seed_generator if training else None
        noisy = self.sampler.begin(self, self.batch_size_of(condition), seed)
        ones = ops.ones((ops.shape(noisy)[0],), dtype="float32")
        return noisy, self.blocks[0].upper_level * ones

    def pass_levels(self, index):
        """Noise levels before and after block `index` in a hand-over."""
        return [b.upper_level for b in self.blocks[index : index + 2]]

    def merge_logs(self, logs):
        """Adds the other blocks' latest losses to those of this step."""
        self._block_logs.update(logs)
        return dict(self._block_logs)

    def reset_metrics(self):
        super().reset_metrics()
        self._block_logs = {}

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Mean of the blocks' losses, for `evaluate`.

        On fixed noise, and on hand-overs for the share of the batch that
        training takes them for.
        """
        total = 0.0
        weight = self.batch_size_of(x)
        for block, tracker in zip(self.blocks, self.block_losses, strict=True):
            handed = self.hand_over(block.index, x, y, training=False)
            loss = block.denoising_loss(
                x, y, sample_weight, handed, training=False
            )
            tracker.update_state(loss, sample_weight=weight)
            total = total + loss
        return total / self.num_blocks


def _import_step(kind=""):
    name = f"keras_dblocks.training.{keras.backend.backend()}{kind}_step"
    return importlib.import_module(name)
