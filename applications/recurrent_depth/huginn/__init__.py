"""Huginn, the end-to-end twin, with truncated backpropagation."""

from keras_dblocks.applications.recurrent_depth.huginn.model import Huginn

__all__ = ["Huginn"]
