"""The base class, a residual network cut into blocks trained one by one."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Self, overload

import keras
import numpy as np
from keras import ops, tree

from keras_dblocks import compat, presets, processes
from keras_dblocks.checks import check_integer
from keras_dblocks.configuration import Configured
from keras_dblocks.diffusion import samplers
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.samplers import generation, loop
from keras_dblocks.diffusion.target import Target
from keras_dblocks.diffusion.weighting import check_weighting
from keras_dblocks.files import file_format
from keras_dblocks.layers import HandedState, NoiseModulation
from keras_dblocks.layers.context import accepts
from keras_dblocks.models import (
    assembly,
    layout,
    one_at_a_time,
    table,
    twins,
)
from keras_dblocks.models.block import Block, dtype_scope
from keras_dblocks.models.built_when_read import BuiltWhenRead
from keras_dblocks.models.export import Exportable
from keras_dblocks.models.generation import Generates
from keras_dblocks.models.network import Network, check_spec
from keras_dblocks.models.numbered_rows import NumberedRows
from keras_dblocks.models.parts import BatchLayout, BlockParts, Method
from keras_dblocks.streams import rows_of
from keras_dblocks.training.trainable_block import hand_over
from keras_dblocks.training.trainer import BlockTrainer


class DiffusionBlocks(
    Network,
    NumberedRows,
    Exportable,
    Generates,
    BuiltWhenRead,
    Configured,
    BlockTrainer,
):
    """A deep residual network trained one block at a time.

    A model is made in one of two ways. A subclass defines the parts, see
    `Network`: `condition_spec`, `make_target`, `make_stem`, `make_layer` and,
    where the defaults do not fit, `make_readout`, `make_head` and more. Or
    the parts are passed in one call, without a subclass, see
    `ComposedBlocks`:

    ```python
    model = DiffusionBlocks(
        target=LabelEmbedding(10, 64),
        stem=stem,  # layer or functional model of (noisy, condition)
        layers=[make_layer() for _ in range(6)],
        head=keras.layers.Dense(10),
        num_blocks=3,
        condition=keras.KerasTensor((None, 8, 8, 1)),
    )
    ```

    Args:
        num_layers: int. Residual layers of the whole network.
        num_blocks: int. Blocks that the layers are cut into, the paper's B.
        layers_per_block: list of ints, or None for equal blocks.
        overlap: float, gamma of the paper. Defaults to `0.05`.
        sharing: `"all"` (stem, noise embedding and head are shared and
            trained at every step, as in the reference) or `"targets"` (each
            block has its own, and only the fixed table of targets is common,
            so that blocks can be trained apart). Defaults to `"all"`, and to
            `"targets"` for classes that train blocks in sequence, unless
            `reference=True`.
        hand_over: what a block is handed by the one before it: `"signal"`,
            the noisy signal; `"state"`, also its last state; `"state_alone"`,
            its last state on this block's own noisy signal, so that every
            call runs the earlier blocks too (docs/method.md#state-handed-over).
            Defaults to the class's `default_hand_over`, and to `"signal"`
            with `reference=True`.
        partition: `"equal_probability"`, `"log_uniform"`, `"linear"` or
            `"mostly_last"`, see `Partition`. Defaults to the class's
            `default_partition`, and to `"equal_probability"` with
            `reference=True`.
        loss_weighting: `"none"`, `"edm"` or `"batch_mean"`, see
            docs/method.md#loss-and-weighting. Defaults to what suits the
            clean signal.
        sampler: as in `samplers.get`, or None for the default.
        reference: bool. True takes the paper's settings wherever ours differ.
        seed: int. Noise, block order and fixed tables follow from it.
        remat: bool. True computes layers again in the backward pass, so that
            a training step keeps only their inputs (`keras.remat`). A block's
            last layer is excepted, since this would save nothing.
        dtype: dtype policy. `"mixed_bfloat16"` is supported.

    Every constructor argument of a subclass must become an attribute of the
    same name. The subclass then needs no `get_config` to be saved.

    The model is built by `build()`, which `compile`, `predict`, `save` and
    `summary` call. `block(i)` builds that block alone.

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202)
    """

    # `X.end_to_end(**keywords)` and `model.end_to_end()` both make the same
    # network, trained by ordinary backpropagation.
    end_to_end = twins.TwinMethod("make_end_to_end", "_end_to_end")

    def __new__(cls, *args, **kwargs):
        if cls is DiffusionBlocks:
            from keras_dblocks.models.composed import ComposedBlocks

            cls = ComposedBlocks
        return super().__new__(cls, *args, **kwargs)

    @overload  # the parts in one call, which makes a `ComposedBlocks`
    def __init__(self, *, target: Target, **kwargs: Any) -> None: ...

    @overload
    def __init__(
        self,
        num_layers: int = 12,
        num_blocks: int = 3,
        layers_per_block: Sequence[int] | None = None,
        overlap: float = 0.05,
        sharing: str | None = None,
        hand_over: str | None = None,
        partition: str | None = None,
        loss_weighting: str | None = None,
        sampler: samplers.Sampler | str | dict[str, Any] | None = None,
        reference: bool = False,
        seed: int = 0,
        remat: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # `__new__` takes the parts
        self,
        num_layers: int = 12,
        num_blocks: int = 3,
        layers_per_block: Sequence[int] | None = None,
        overlap: float = 0.05,
        sharing: str | None = None,
        hand_over: str | None = None,
        partition: str | None = None,
        loss_weighting: str | None = None,
        sampler: samplers.Sampler | str | dict[str, Any] | None = None,
        reference: bool = False,
        seed: int = 0,
        remat: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype=dtype, name=name)
        if sharing is None:
            sharing = "all" if reference else self.default_sharing
        if sharing not in ("all", "targets"):
            raise ValueError(
                '`sharing` must be "all" or "targets". '
                f"Received: sharing={sharing!r}. Leave it out for the default."
            )
        if self.dtype_policy.compute_dtype == "float16":
            raise ValueError(
                "Sampled blocks need a dtype with the range of float32. "
                f"Received: dtype={self.dtype_policy.name}, whose loss scaling "
                'does not work per block. Use "mixed_bfloat16".'
            )
        if hand_over not in (None, *self.hand_overs):
            raise ValueError(
                f"`hand_over` of a {type(self).__name__} must be one of "
                f"{self.hand_overs}. Received: hand_over={hand_over!r}. "
                "Leave it out for the default of the class."
            )
        check_weighting(loss_weighting)
        check_integer("seed", seed, 0)
        self.num_layers = num_layers
        self.num_blocks = num_blocks
        self.overlap = overlap
        self.sharing = sharing
        default = "signal" if reference else self.default_hand_over
        self.hand_over = hand_over or default
        self.loss_weighting = loss_weighting
        self.reference = reference
        self.seed = seed
        self.remat = remat
        self.noise = self.make_noise()
        self.preconditioning = self.make_preconditioning()
        if partition is None:
            partition = self.default_partition
            if reference:
                partition = "equal_probability"
        self.partition = Partition(
            self.noise,
            num_layers,
            num_blocks,
            layers_per_block,
            overlap,
            partition,
        )
        self.layers_per_block = self.partition.layers_per_block
        self.sampler = sampler or self.make_sampler()
        self.blocks: list[Block] = []
        self._stages = generation.Stages(lambda: self.blocks)
        names = [f"block_{i}_loss" for i in range(num_blocks)]
        self._loss_means = compat.Losses(names, name="block_losses")
        if self.hand_over == "state_alone" and num_blocks > 1:
            self.default_on_policy = 1.0
        if reference:
            self.default_on_policy = 0.0  # the paper's
            self.default_curriculum = "sampled"

    @property
    def may_skip(self) -> bool:
        """Whether a sampler may leave blocks out (bool): others run them."""
        return self.hand_over == "state_alone"

    @property
    def block_losses(self) -> list[keras.metrics.Mean]:
        """Running mean of each block's loss, a list of `keras.metrics.Mean`."""
        return self._loss_means.metrics

    # The parts.

    def build(self, input_shape=None):
        """Makes and builds all blocks in the sizes of the constructor."""
        self._make_blocks()
        for block in self.blocks:
            if not block.built:
                block.build()
        self.make_row_counter()
        self.track_progress()

    def block(self, index: int, build: bool = True) -> Block:
        """Block `index`, an ordinary `keras.Model` sharing this one's weights.

        Only that block is built. One block can thus be trained alone even if
        the whole network is too large for the machine.
        """
        index = self.partition.index_of(index)
        self._make_blocks()
        block = self.blocks[index]
        if build and not block.built:
            block.build()
        return block

    @property
    def target(self) -> Target:
        """`Target` of the clean signal, which all blocks share."""
        self._make_blocks()
        return self._target

    def _make_blocks(self):
        if self.blocks:
            return
        self.arguments()  # raises now what would end `save` after training
        target = self.make_target()
        if not isinstance(target, Target):
            raise ValueError(
                "`make_target` must return a `Target`. Received: a "
                f"{type(target).__name__}. Use `layers.LabelEmbedding` or "
                "`layers.ContinuousSignal`, or subclass `Target`."
            )
        if self.sharing == "targets":
            target.freeze(self.seed)
        self._target = target
        shared = average = None
        if self.sharing == "all":
            with dtype_scope(self.dtype_policy):
                shared = self.make_shell(target)
                average = self.make_average()
        arguments = self._method(), self._batch_layout(), self._serialized
        for index in range(self.num_blocks):
            with dtype_scope(self.dtype_policy):
                parts = BlockParts(
                    target=target,
                    shell=shared or self.make_shell(target),
                    residual_layers=self._residual_layers(index),
                    state_input=self._state_input(),
                    shared_average=average,
                    average=self.make_average(),
                )
            block = Block(
                index,
                parts,
                *arguments,
                hand_over_start=self.hand_over_start(),
                dtype=self.dtype_policy,
            )
            self.blocks.append(block)

    def _serialized(self):
        return keras.saving.serialize_keras_object(self)

    def _residual_layers(self, index):
        layers = [self.make_layer(i) for i in self.partition.layers_of(index)]
        return [
            layer if accepts(layer, "noise") else NoiseModulation(layer)
            for layer in layers
        ]

    def _state_input(self):
        alone = self.hand_over == "state_alone" and self.num_blocks == 1
        if self.hand_over == "signal" or alone:
            return None
        return HandedState(name="state_input")

    def _method(self):
        return Method(
            noise=self.noise,
            preconditioning=self.preconditioning,
            partition=self.partition,
            weighting=self.loss_weighting or self.default_loss_weighting(),
            seed=self.seed,
            stratified=not self.reference,
            remat=self.remat,
            remat_last=self.remat_last,
            keeps_shape=self.keeps_shape,
            state_alone=self.hand_over == "state_alone",
            starts_from_noise=lambda: self.sampler.starts_from_noise,
        )

    def _batch_layout(self):
        spec = self.condition_spec()
        check_spec(spec)
        return BatchLayout(
            condition_spec=_untracked(spec),
            split=self.split,
            condition_of=self.condition_of,
            is_condition=self.is_condition,
            null_condition=self.null_condition,
            batch_size_of=self.batch_size_of,
            check_targets=self.check_targets,
            check_data=self.check_data,
        )

    def hand_over_start(self) -> Callable[..., Any] | None:
        """Function that begins hand-overs, or None for the chain's start.

        It is for networks whose hand-over is more than one pass through each
        earlier block; see `Block`.
        """
        return None

    def shared_variables(self) -> list[keras.Variable]:
        """Trainable variables that every block holds."""
        if self.sharing == "targets" or self.num_blocks == 1:
            return []
        common = set.intersection(
            *({id(v) for v in b.trainable_variables} for b in self.blocks)
        )
        first = self.blocks[0].trainable_variables
        return [v for v in first if id(v) in common]

    def own_variables(self) -> list[list[keras.Variable]]:
        """For each block, the trainable variables that are not shared."""
        shared = {id(v) for v in self.shared_variables()}
        return [
            [v for v in block.trainable_variables if id(v) not in shared]
            for block in self.blocks
        ]

    # What it computes.

    def call(self, x, training=False):
        processes.refuse_wrapped(self)
        if not self.is_condition(x):
            return None
        rows = self.row_numbers(self.batch_size_of(x), "predict")
        return self.target.in_units(loop.sample(*self._chain(x, rows)))

    def _chain(self, x, rows, sampler=None):
        """Arguments of `loop.sample` for an input of `predict`."""
        sampler = sampler or self.sampler
        shape = self.target.signal_shape
        noisy = loop.start(sampler, self.noise, rows, shape)
        condition = self.condition_of(x)
        return self.blocks, self.partition, sampler, noisy, condition, rows

    def steps_of(
        self, x: Any, sampler: samplers.Sampler | None = None, rows: Any = None
    ) -> list[dict[str, Any]]:
        """Every call of the chain for some inputs, see `loop.trajectory`.

        Args:
            x: tensor(s) `(B, ...)` as given to `predict`.
            sampler: `Sampler`, or None for the model's own.
            rows: int32 tensor `(B,)`, the rows' numbers in the whole call, or
                None to number the rows of this batch.
        """
        if rows is None:
            rows = rows_of(self.batch_size_of(x))
        return loop.trajectory(*self._chain(x, rows, sampler))

    def denoise(
        self,
        noisy: Any,
        level: Any,
        condition: Any = None,
        block: int | None = None,
    ) -> Any:
        """The prediction that the loss sees: logits, or the denoised signal.

        Args:
            noisy: array or tensor `(B, ...)`.
            level: noise levels `(B,)`, or one level for all examples.
            condition: array(s) or tensor(s) `(B, ...)`.
            block: int, or None to route each example by its level.

        Returns:
            A numpy array if `noisy` is one, otherwise a tensor.
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
        found, parts = [], []
        for index in np.unique(chosen):
            members = np.flatnonzero(chosen == index)
            leaves = [ops.take(t, members, 0) for t in tree.flatten(tensors)]
            part = tree.pack_sequence_as(tensors, leaves)
            found.append(members)
            run = loop.running(self.blocks, index)
            parts.append(loop.denoise(run, *part))
        result = ops.concatenate(parts, 0)
        result = ops.take(result, np.argsort(np.concatenate(found)), 0)
        if isinstance(noisy, np.ndarray):
            return ops.convert_to_numpy(result)
        return result

    def predict_steps(
        self,
        x: Any,
        batch_size: int = 128,
        sampler: samplers.Sampler | str | dict[str, Any] | None = None,
    ) -> np.ndarray:
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
        chain = self.steps_model(sampler)
        steps = chain.predict(x, batch_size=batch_size, verbose=0)
        return np.moveaxis(steps, 1, 0)

    def steps_model(
        self, sampler: samplers.Sampler | str | dict[str, Any] | None = None
    ) -> keras.Model:
        """The model behind `predict_steps`, which compiles a new one each time.

        It holds as long as no layer is replaced, as `quantize` does.

        Args:
            sampler: as in `predict_steps`.

        Returns:
            `keras.Model` from x to predictions `(N, num_steps, ...)`.
        """
        return _Chain(self, samplers.get(sampler or self.sampler))

    def last_calls(self) -> dict[int, int]:
        """For each block, the number of its last step in the chain (dict)."""
        return loop.last_calls(self.sampler, self.partition, self.may_skip)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Mean of the blocks' losses, for `evaluate`.

        The noise is fixed. The same share of the rows as in training is
        handed over by the earlier blocks.
        """
        batch = self.batch_size_of(x)
        rows = self.row_numbers(batch, "evaluate")
        total = 0.0
        for block, tracker in zip(self.blocks, self.block_losses, strict=True):
            handed = self._validation_hand_over(block.index, x, y, rows)
            loss = block.denoising_loss(
                x,
                y,
                sample_weight,
                handed,
                training=False,
                rows=rows,
                share=self.on_policy,
            )
            weight = block.batch_weight((x, y, None))
            tracker.update_state(loss, sample_weight=weight)
            total = total + loss
        return total / self.num_blocks

    def _validation_hand_over(self, index, x, y, rows):
        if not self.on_policy:
            return None
        return hand_over(self.blocks, index, (x, y, None), 1.0, rows)

    @property
    def sampler(self) -> samplers.Sampler:
        """`Sampler` of `predict`; set it to change how the chain runs."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: samplers.Sampler | str | dict[str, Any]) -> None:
        sampler = samplers.get(sampler)
        # Raises now instead of in `predict`.
        loop.plan(sampler, self.partition, self.may_skip)
        self._sampler = sampler
        self.predict_function = self.test_function = None

    def input_specs(self):
        return self.condition_spec()

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.quantize`; see `Block.quantize`."""
        if not self.built:
            self.build()
        for block in self.blocks:
            block.take_averages()
        super().quantize(*args, **kwargs)
        self.predict_function = self.test_function = None

    # The twins.

    @classmethod
    def make_end_to_end(cls, **kwargs: Any) -> keras.Model:
        """The end-to-end twin of the class, from its constructor's keywords.

        The twin is the same network trained by ordinary backpropagation, a
        plain `keras.Model`. Keywords that only concern blocks have no effect.
        """
        return cls(**kwargs).end_to_end()

    def _end_to_end(self):
        """The same network trained by ordinary backpropagation.

        The twin is a plain Keras model of the same parts with fresh weights.
        It is not compiled; call `compile` with a loss of what the head
        returns, for logits of classes
        `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. The
        twin of a network that generates its input is the ordinary diffusion
        model, which has one block.
        """
        return self.make_twin(self.num_layers, "end_to_end")

    def layer_matched(self) -> keras.Model:
        """The end-to-end twin that is only as deep as one block.

        At equal layer evaluations it takes as many steps as all blocks
        together. If it does as well, this task does not benefit from blocks.
        It is compiled like the model of `end_to_end`.
        """
        return self.make_twin(max(self.layers_per_block), "layer_matched")

    def make_twin(self, num_layers: int, name: str) -> keras.Model:
        """The twin with `num_layers` layers, of either kind."""
        if not self.generates_input():
            return twins.plain_twin(self, num_layers, name)
        config = self.get_config()
        changes = {"num_blocks": 1, "layers_per_block": None, "name": name}
        changes |= {self.layers_keyword: num_layers, "sampler": None}
        return type(self).from_config({**config, **changes})

    # Saving and showing.

    def get_config(self):
        config = self.arguments()
        config["partition"] = self.partition.kind
        config["layers_per_block"] = list(self.layers_per_block)
        config["sampler"] = samplers.serialize(self.sampler)
        config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return {**config, **file_format.config()}

    @classmethod
    def from_config(cls, config):
        file_format.check(config, cls.__name__)
        return super().from_config(file_format.without_version(config))

    def load_block(self, path: os.PathLike | str) -> None:
        """Loads a saved block's weights into this model."""
        assembly.load_block(self, path)

    @classmethod
    def from_blocks(cls, paths: Sequence[os.PathLike | str]) -> Self:
        """Makes the model from blocks that were saved one by one."""
        return assembly.from_blocks(cls, paths)

    @classmethod
    def predict_from_blocks(
        cls,
        paths: Sequence[os.PathLike | str],
        x: Any,
        batch_size: int = 128,
        verbose: int = 0,
    ) -> np.ndarray:
        """`predict` from saved blocks, with one block in memory at a time.

        It is for networks whose weights do not fit the machine as a whole.
        What a block makes of all rows is kept before the next one is read.

        Args:
            paths: list of paths, one file per block, in the order of the
                blocks, as `model.block(i).save(path)` writes them.
            x: array(s) `(N, ...)`, as `predict` takes them.
            batch_size: int. Rows that are run at once. Defaults to `128`.
            verbose: 1 for a progress bar.

        Returns:
            numpy array, what `predict` of the assembled model returns.

        Raises:
            ValueError: for files that are no blocks of one network, in order.

        Example:

        ```python
        paths = [f"block_{i}.keras" for i in range(model.num_blocks)]
        for i, path in enumerate(paths):
            model.block(i).save(path)
        logits = ViT.predict_from_blocks(paths, x_test)
        ```
        """
        return one_at_a_time.predict_from_blocks(
            cls, paths, x, batch_size, verbose
        )

    @classmethod
    def layout_map(
        cls, mesh: keras.distribution.DeviceMesh, axis: str = "model"
    ) -> keras.distribution.LayoutMap:
        """`keras.distribution.LayoutMap` that divides the residual layers.

        Example, before the model is built:

        ```python
        mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=ViT.layout_map(mesh), batch_dim_name="batch"
            )
        )
        ```

        Args:
            mesh, axis: see `layout.layout_map`.
        """
        return layout.layout_map(mesh, axis)

    @classmethod
    def from_preset(
        cls,
        preset: os.PathLike | str,
        load_weights: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes a model from a preset.

        Args:
            preset: str. A name in `presets` of the class, or the path of a
                folder that `save_to_preset` wrote.
            load_weights: bool, or None to load trained weights where the
                preset has any. Defaults to `None`.
            kwargs: constructor keywords that replace the preset's.

        Raises:
            ValueError: for an unknown preset, for weights that are asked for
                and not there, or that do not fit the keywords.

        Example:

        ```python
        model = ViT.from_preset("vit_digits")
        logits = model.predict(images)  # (N, 8, 8, 1), from 0 to 1
        ```
        """
        return presets.load(cls, preset, load_weights, **kwargs)

    @classmethod
    def preset_blocks(cls, preset: os.PathLike | str) -> list[str]:
        """Paths of a preset's blocks, for one block in memory at a time.

        Args:
            preset: str, as in `from_preset`.

        Returns:
            list of str, one path a block, in the order of the blocks.

        Raises:
            ValueError: if the preset was not saved by block.

        Example:

        ```python
        paths = ViT.preset_blocks("vit_digits")
        logits = ViT.predict_from_blocks(paths, images)
        ```
        """
        return presets.block_files(cls, preset)

    def save_to_preset(
        self,
        folder: os.PathLike | str,
        record: os.PathLike | str | dict[str, Any] | None = None,
        license: str | None = None,
        by_block: bool = False,
    ) -> None:
        """Writes config and weights to a folder that `from_preset` reads.

        Beside them a model card is written, a `README.md` as Hugging Face
        shows it: sizes, blocks, training and how to load it. A page that is
        there already stays if it is not such a card.

        Args:
            folder: path, which is made if need be.
            record: path of the `record.json` of a training program's run, or
                its dict, for the card's training and results.
            license: str for the card, such as `"apache-2.0"`. Left out by
                default.
            by_block: bool. True writes one file per block, as
                `block.save` does, so that one can be fetched and loaded
                without the others. Defaults to `False`, one file for all.
        """
        presets.save(self, folder, record, license, by_block)

    def summary(
        self, print_fn: Callable[[str], Any] = print, **kwargs: Any
    ) -> None:
        """Prints each block's layers, noise range, parameters and state."""
        print_fn(table.summary(self))


def _untracked(spec):
    """The tree as plain dicts and tuples; Keras tracks those it is given."""
    if isinstance(spec, dict):
        return {name: _untracked(value) for name, value in spec.items()}
    if isinstance(spec, (list, tuple)):
        return tuple(_untracked(value) for value in spec)
    return spec


class _Chain(NumberedRows, keras.Model):
    """The chain with every step's prediction, for `predict_steps`."""

    def __init__(self, model, sampler):
        super().__init__(name="chain")
        self.model = model
        self.sampler = sampler
        self.make_row_counter()
        self.built = True

    def call(self, x):
        rows = self.row_numbers(self.model.batch_size_of(x), "predict")
        steps = self.model.steps_of(x, self.sampler, rows)
        in_units = self.model.target.in_units
        return ops.stack([in_units(step["prediction"]) for step in steps], 1)
