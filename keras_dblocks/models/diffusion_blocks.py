"""The base class: a residual network cut into independently trained blocks."""

import inspect

import keras
import numpy as np
from keras import ops, tree

from keras_dblocks import presets, samplers
from keras_dblocks.models import assembly, table
from keras_dblocks.models.checks import check_array, check_integer
from keras_dblocks.models.parts import Parts
from keras_dblocks.partition import Partition
from keras_dblocks.training.trainer import BlockTrainer

WEIGHTINGS = ("none", "edm", "batch_mean")


class DiffusionBlocks(Parts, BlockTrainer):
    """A deep residual network trained one block at a time.

    A subclass says what the parts are: `condition_spec`, `make_target`,
    `make_stem`, `make_layer`, `make_readout` and `make_head`. A part's
    `call` gets those of `noise` (the embedded level `(B, noise_dim)`),
    `signal` (the noisy signal), `condition` and `training` that it names. A
    layer that names no `noise` is wrapped in `layers.NoiseModulation`.

    Args:
        num_layers: int. Residual layers of the whole network.
        num_blocks: int. Blocks they are cut into, B of the paper.
        layers_per_block: list of ints, or None for equal blocks.
        overlap: float, gamma of the paper. Defaults to `0.05`.
        sharing: `"all"` (stem, noise embedding and head are shared and
            trained at every step, as in the reference) or `"targets"` (each
            block has its own; only the fixed table of the clean signal is
            common, so that blocks can be trained apart).
        partition: `"equal_probability"`, `"log_uniform"` or `"linear"`.
        loss_weighting: `"none"`, `"edm"` or `"batch_mean"` (METHOD 1).
            Defaults to what suits the clean signal.
        sampler: as in `samplers.get`, or None for the default.
        reference: bool. The paper's settings wherever ours differ.
        seed: int. Noise, block order and fixed tables follow from it.
        remat: bool. Layers are computed again in the backward pass, so that
            a training step keeps their inputs alone (`keras.remat`); not
            a block's last layer, of which that would save nothing.
        dtype: dtype policy; `"mixed_bfloat16"` works.

    Every constructor argument of a subclass must become an attribute of the
    same name; then the model can be saved with no `get_config`.

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202)
    """

    def __init__(
        self,
        num_layers=12,
        num_blocks=3,
        layers_per_block=None,
        overlap=0.05,
        sharing="all",
        partition="equal_probability",
        loss_weighting=None,
        sampler=None,
        reference=False,
        seed=0,
        remat=False,
        dtype=None,
        name=None,
    ):
        super().__init__(dtype=dtype, name=name)
        if sharing not in ("all", "targets"):
            raise ValueError(
                '`sharing` must be "all" or "targets". '
                f'Received: sharing={sharing!r}. Use the default, "all".'
            )
        if self.dtype_policy.compute_dtype == "float16":
            raise ValueError(
                "Sampled blocks need a dtype with the range of float32. "
                f"Received: dtype={self.dtype_policy.name}, whose loss scaling "
                'does not work per block. Use "mixed_bfloat16".'
            )
        if loss_weighting not in (None, *WEIGHTINGS):
            raise ValueError(
                f"`loss_weighting` must be one of {WEIGHTINGS}. "
                f"Received: {loss_weighting!r}. Leave it out for the default."
            )
        check_integer("seed", seed, 0)
        self.num_layers = num_layers
        self.num_blocks = num_blocks
        self.overlap = overlap
        self.sharing = sharing
        self.loss_weighting = loss_weighting
        self.reference = reference
        self.seed = seed
        self.remat = remat
        self.noise = self.make_noise()
        self.preconditioning = self.make_preconditioning()
        self.partition = Partition(
            self.noise,
            num_layers,
            num_blocks,
            layers_per_block,
            overlap,
            partition,
        )
        self.layers_per_block = self.partition.layers_per_block
        self.stratified = not reference
        self.sampler = sampler or self.make_sampler()
        self.blocks = []
        self.block_losses = [
            keras.metrics.Mean(name=f"block_{i}_loss")
            for i in range(num_blocks)
        ]
        self._block_logs = {}

    def build(self, input_shape=None):
        self._building = True
        self._make_blocks()
        for block in self.blocks:
            if not block.built:
                block.build()
        self._track_progress()

    @property
    def variables(self):
        self._build_on_demand()
        return super().variables

    @property
    def weights(self):
        self._build_on_demand()
        return super().weights

    def _build_on_demand(self):
        # All sizes are known once the constructor is through, but building is
        # put off, so that `block(i)` can build one block alone.
        if self.built or getattr(self, "_building", False):
            return
        if all(name in self.__dict__ for name in ("blocks", "block_losses")):
            if all(hasattr(self, name) for name in self._argument_names()):
                self.build()

    def block(self, index, build=True):
        """Block `index`, an ordinary `keras.Model` sharing this one's weights.

        Only that block is built, so that one block of a network too large for
        this machine can be trained alone.
        """
        index = self.partition.index_of(index)
        self._make_blocks()
        block = self.blocks[index]
        if build and not block.built:
            block.build()
        return block

    # What it computes.

    def call(self, x, training=False):
        if not self.is_condition(x):
            return None
        return self.sampler(self, self.condition_of(x))

    def denoise(self, noisy, level, condition=None, block=None):
        """What the loss sees: logits, or the denoised signal.

        Args:
            noisy: array or tensor `(B, ...)`.
            level: noise levels `(B,)`, or one for all.
            condition: array(s) or tensor(s) `(B, ...)`.
            block: int, or None to route each example by its level.

        Returns:
            Array if `noisy` is a numpy array, else a tensor.
        """
        if not self.built:
            self.build()
        batch = noisy.shape[0]
        host = np.broadcast_to(ops.convert_to_numpy(level), (batch,))
        if block is None:
            chosen = self.partition.block_of(host)
        else:
            chosen = np.full(batch, self.partition.index_of(block))
        tensors = [ops.convert_to_tensor(noisy, dtype=self.noise.dtype)]
        tensors += [host.astype("float32")]
        tensors += [] if condition is None else [condition]
        tensors = tree.map_structure(ops.convert_to_tensor, tensors)
        rows, parts = [], []
        for index in np.unique(chosen):
            row = np.flatnonzero(chosen == index)
            leaves = [ops.take(t, row, 0) for t in tree.flatten(tensors)]
            part = tree.pack_sequence_as(tensors, leaves)
            rows.append(row)
            parts.append(self.blocks[index].denoise(*part))
        result = ops.concatenate(parts, 0)
        result = ops.take(result, np.argsort(np.concatenate(rows)), 0)
        if isinstance(noisy, np.ndarray):
            return ops.convert_to_numpy(result)
        return result

    def predict_steps(self, x, batch_size=128, sampler=None):
        """Predictions after every step of the chain.

        Args:
            x: array(s) as given to `predict`.
            batch_size: int.
            sampler: as in `samplers.get`, or None for the model's own.

        Returns:
            numpy array `(num_steps, N, ...)`.
        """
        if not self.built:
            self.build()
        chain = _Chain(self, samplers.get(sampler or self.sampler))
        steps = chain.predict(x, batch_size=batch_size, verbose=0)
        return np.moveaxis(steps, 1, 0)

    def weigh(self, loss, level, sample_weight=None):
        """Mean of the examples' losses `(B,)` under `loss_weighting`."""
        weighting = self.loss_weighting or self.default_loss_weighting()
        if sample_weight is not None:
            weight = ops.reshape(sample_weight, ops.shape(loss))
            loss = loss * ops.cast(weight, loss.dtype)
        if weighting == "none":
            return ops.mean(loss)
        weight = self.preconditioning.weight(level)
        if weighting == "edm":
            return ops.mean(ops.multiply(weight, loss))
        # What the reference's broadcast amounts to (METHOD 0.2).
        return ops.mean(weight) * ops.mean(loss)

    def default_loss_weighting(self):
        """`"none"` for cross-entropy; the reference's own under it."""
        return "batch_mean" if self.reference else "none"

    def batch_size_of(self, x):
        """Number of examples in `x`: int where it is known."""
        return ops.shape(tree.flatten(x)[0])[0]

    @property
    def sampler(self):
        """`samplers.Sampler` of `predict`; set it to change how blocks run."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler):
        sampler = samplers.get(sampler)
        sampler.plan(self.partition)  # raises now, not in predict
        self._sampler = sampler
        self.predict_function = self.test_function = None

    # Refusals.

    def check_targets(self, x, y):
        if self.split(x, y)[0] is None:
            raise ValueError(
                "Training needs targets. Received: y=None. "
                "Pass labels, `fit(x, y)`."
            )

    def check_data(self, x, y=None):
        clean, condition = (None, x) if y is None else self.split(x, y)
        spec = self.condition_spec()
        arrays, specs = tree.flatten(condition), tree.flatten(spec)
        alike = tree.is_nested(condition) == tree.is_nested(spec)
        if not alike or len(arrays) != len(specs):
            raise ValueError(
                "The input must be nested like `condition_spec()`. Received: "
                f"a {type(condition).__name__} with {len(arrays)} arrays for "
                f"{len(specs)}. Pass one array as it is, `fit(x, y)`."
            )
        for array, wanted in zip(arrays, specs, strict=True):
            check_array(array, wanted)
        check = getattr(self._target, "check", None)
        if clean is not None and check:
            check(ops.convert_to_numpy(clean))

    # Saving and showing.

    @classmethod
    def _argument_names(cls):
        names = {}
        for base in cls.__mro__:
            if issubclass(base, DiffusionBlocks):
                names.update(inspect.signature(base.__init__).parameters)
        return [n for n in names if n not in ("self", "args", "kwargs")]

    def get_config(self):
        config = {name: getattr(self, name) for name in self._argument_names()}
        config["partition"] = self.partition.kind
        config["layers_per_block"] = list(self.layers_per_block)
        config["sampler"] = self.sampler.get_config()
        config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            dtype = keras.saving.deserialize_keras_object(config["dtype"])
            config["dtype"] = dtype
        return cls(**config)

    def load_block(self, path):
        """Puts a saved block's weights into this model."""
        assembly.load_block(self, path)

    def start_from(self, start):
        """Starts every block as a copy of a trained, shallow model.

        A model with one block, as deep as each of this one's, learns all
        noise levels with every step; its copies then specialise. Memory and
        layer evaluations of its steps are those of a block's steps.

        Args:
            start: model of the same class and sizes with `num_blocks=1` and
                as many layers as each block of this one.

        Raises:
            ValueError: if it is not; nothing is changed then.
        """
        assembly.start_from(self, start)

    @classmethod
    def from_blocks(cls, paths):
        """The model whose blocks were saved one by one."""
        return assembly.from_blocks(cls, paths)

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """A model from a preset's name or a folder; see `presets`."""
        return presets.load(cls, preset, **kwargs)

    def save_to_preset(self, folder):
        """Writes config and weights to a folder `from_preset` reads."""
        presets.save(self, folder)

    def summary(self, print_fn=print, **kwargs):
        """Prints block, layers, noise range, parameters, optimizer state."""
        print_fn(table.summary(self))


class _Chain(keras.Model):
    """The chain with every step's prediction, for `predict_steps`."""

    def __init__(self, model, sampler):
        super().__init__(name="chain")
        self.model = model
        self.sampler = sampler
        self.built = True

    def call(self, x):
        condition = self.model.condition_of(x)
        steps = self.sampler.trajectory(self.model, condition)
        return ops.stack([step["prediction"] for step in steps], 1)
