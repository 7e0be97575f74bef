"""The systems that show the method, one folder each."""

from keras_dblocks.applications.ar import ARTransformer
from keras_dblocks.applications.dit import DiT, DiTB2, DiTL2, DiTS2, DiTXL2
from keras_dblocks.applications.mdm import MDM
from keras_dblocks.applications.recurrent_depth import RecurrentDepth
from keras_dblocks.applications.vit import (
    ViT,
    ViTB16,
    ViTL16,
    ViTS16,
    ViTTi16,
)

# Modules whose classes are found in files and nowhere else.
import keras_dblocks.applications.ar.twin  # isort: skip
import keras_dblocks.applications.data.text
import keras_dblocks.applications.recurrent_depth.huginn.model
import keras_dblocks.applications.vit.twin  # noqa: F401

__all__ = [
    "ARTransformer",
    "DiT",
    "DiTB2",
    "DiTL2",
    "DiTS2",
    "DiTXL2",
    "MDM",
    "RecurrentDepth",
    "ViT",
    "ViTB16",
    "ViTL16",
    "ViTS16",
    "ViTTi16",
]
