"""Autoregressive transformer, block by block."""

from keras_dblocks.applications.ar.model import ARTransformer

__all__ = ["ARTransformer"]
