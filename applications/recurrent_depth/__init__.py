"""Recurrent-depth transformer, trained as a denoiser in a single pass."""

from keras_dblocks.applications.recurrent_depth.huginn.published import (
    load_reference_weights,
)
from keras_dblocks.applications.recurrent_depth.model import RecurrentDepth

__all__ = ["RecurrentDepth", "load_reference_weights"]
