"""Autoregressive transformer, block by block."""

from keras_dblocks.applications.ar.model import ARTransformer
from keras_dblocks.applications.ar.reference_weights import (
    load_reference_weights,
)

__all__ = ["ARTransformer", "load_reference_weights"]
