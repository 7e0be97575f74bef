"""Masked diffusion language model, block by block."""

from keras_dblocks.applications.mdm.model import MDM

__all__ = ["MDM"]
