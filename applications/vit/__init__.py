"""Vision transformer, block by block."""

from keras_dblocks.applications.vit.model import ViT
from keras_dblocks.applications.vit.reference_weights import (
    load_reference_weights,
)

__all__ = ["ViT", "load_reference_weights"]
