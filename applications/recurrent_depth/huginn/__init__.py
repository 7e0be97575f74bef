"""Huginn, the end-to-end twin: unrolled, backpropagation cut short."""

from keras_dblocks.applications.recurrent_depth.huginn.model import Huginn

__all__ = ["Huginn"]
