"""Diffusion transformer for images, block by block."""

from keras_dblocks.applications.dit.model import DiT
from keras_dblocks.applications.dit.reference_weights import (
    load_reference_weights,
)
from keras_dblocks.applications.dit.sizes import DiTB2, DiTL2, DiTS2, DiTXL2

__all__ = [
    "DiT",
    "DiTB2",
    "DiTL2",
    "DiTS2",
    "DiTXL2",
    "load_reference_weights",
]
