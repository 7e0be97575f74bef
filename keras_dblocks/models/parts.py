"""Plain data that a block is constructed from."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_dblocks.diffusion.noise import Noise
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.preconditioning import Preconditioning
from keras_dblocks.diffusion.target import Target


@dataclasses.dataclass(frozen=True)
class Shell:
    """Layers around the residual layers of a block.

    Attributes:
        noise_embedding: layer from `c_noise` `(B,)` to `(B, noise_dim)`.
        stem: layer from the scaled noisy signal to the first state.
        readout: layer from the last state to the shape of the clean signal.
        head: layer from the denoised signal to the prediction.
    """

    noise_embedding: Any
    stem: Any
    readout: Any
    head: Any

    @property
    def layers(self):
        """The four layers in the order in which they are called."""
        return [self.noise_embedding, self.stem, self.readout, self.head]


@dataclasses.dataclass(frozen=True)
class BlockParts:
    """Layers of one block.

    Attributes:
        target: `Target`, the same object in all blocks.
        shell: `Shell`, the same object in all blocks or the block's own.
        residual_layers: list of layers, the block's own.
        state_input: `layers.HandedState`, the block's own, or None if blocks
            hand over the noisy signal alone.
        shared_average: `MovingAverage` of the shared weights, or None.
        average: `MovingAverage` of the block's own weights, or None.
    """

    target: Target
    shell: Shell
    residual_layers: list
    state_input: Any = None
    shared_average: Any = None
    average: Any = None


@dataclasses.dataclass(frozen=True)
class Method:
    """How a block is noised and trained.

    Attributes:
        noise: `Noise`.
        preconditioning: `Preconditioning`.
        partition: `Partition`.
        weighting: str, see `diffusion.weighting`.
        seed: int.
        stratified: bool. Whether noise levels are spread evenly over a batch.
        remat: bool. Whether layers are computed again in the backward pass.
        remat_last: bool. Whether this includes the last residual layer, which
            saves nothing unless much comes after it.
        keeps_shape: bool, see `Network`.
        state_alone: bool. Whether the state is all that is handed over, so
            that earlier blocks run on the noisy signal of the block that
            reads it.
        starts_from_noise: function of no arguments that returns whether the
            network's present sampler starts the chain from noise.
    """

    noise: Noise
    preconditioning: Preconditioning
    partition: Partition
    weighting: str
    seed: int
    stratified: bool = True
    remat: bool = False
    remat_last: bool = False
    keeps_shape: bool = True
    state_alone: bool = False
    starts_from_noise: Callable = lambda: False


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """The meaning of the batches that `fit` and `predict` take.

    Attributes:
        condition_spec: `keras.KerasTensor` or a tree of them, or None.
        split: function from `(x, y)` to clean input and condition.
        condition_of: function from `predict`'s `x` to the condition.
        is_condition: function of `x` that returns False for data that
            `predict` does not take, as in `evaluate` of a generative model.
        null_condition: function from a condition to an empty one.
        batch_size_of: function from `x` to the number of rows.
        check_targets: function of `(x, y)` that refuses missing targets.
        check_data: function of `(x, y)` that refuses bad data.
    """

    condition_spec: Any
    split: Callable
    condition_of: Callable
    is_condition: Callable
    null_condition: Callable
    batch_size_of: Callable
    check_targets: Callable
    check_data: Callable
