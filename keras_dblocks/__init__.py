"""Block-wise training of residual networks by diffusion (DiffusionBlocks)."""

from keras_dblocks import callbacks, layers, memory, samplers
from keras_dblocks.cutting.cut import cut
from keras_dblocks.cutting.cut_model import CutModel
from keras_dblocks.cutting.saved_blocks import predict_from_blocks
from keras_dblocks.diffusion.log_normal import LogNormalNoise
from keras_dblocks.diffusion.masking import MaskingNoise
from keras_dblocks.diffusion.noise import Noise
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.preconditioning import (
    EDMPreconditioning,
    InputPreconditioning,
    NoPreconditioning,
    Preconditioning,
)
from keras_dblocks.diffusion.target import Target
from keras_dblocks.models.block import Block
from keras_dblocks.models.composed import ComposedBlocks
from keras_dblocks.models.diagnosis import Diagnosis, diagnose
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks

# Their classes are registered with Keras, which can then load their files.
from keras_dblocks import applications  # type: ignore[attr-defined]  # isort: skip

__all__ = [
    "Block",
    "ComposedBlocks",
    "CutModel",
    "Diagnosis",
    "DiffusionBlocks",
    "EDMPreconditioning",
    "InputPreconditioning",
    "LogNormalNoise",
    "MaskingNoise",
    "NoPreconditioning",
    "Noise",
    "Partition",
    "Preconditioning",
    "Target",
    "applications",
    "callbacks",
    "cut",
    "diagnose",
    "layers",
    "memory",
    "predict_from_blocks",
    "samplers",
]


def __getattr__(name):
    # pyproject.toml alone states the version; it is looked up when asked for.
    if name == "__version__":
        import importlib.metadata as metadata

        try:
            return metadata.version("keras-dblocks")
        except metadata.PackageNotFoundError as error:
            raise AttributeError("keras_dblocks is not installed") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
