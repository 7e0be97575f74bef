"""Block-wise training of residual networks by diffusion (DiffusionBlocks)."""

from keras_dblocks import layers, memory, samplers
from keras_dblocks.models.block import Block
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks
from keras_dblocks.noise import LogNormalNoise
from keras_dblocks.partition import Partition
from keras_dblocks.preconditioning import EDMPreconditioning

__version__ = "0.1.0"

__all__ = [
    "Block",
    "DiffusionBlocks",
    "EDMPreconditioning",
    "LogNormalNoise",
    "Partition",
    "layers",
    "memory",
    "samplers",
]
