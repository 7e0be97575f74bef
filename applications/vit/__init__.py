"""Vision transformer, block by block."""

from keras_dblocks.applications.vit.model import ViT
from keras_dblocks.applications.vit.reference_weights import (
    load_reference_weights,
)
from keras_dblocks.applications.vit.sizes import (
    ViTB16,
    ViTL16,
    ViTS16,
    ViTTi16,
)

__all__ = [
    "ViT",
    "ViTB16",
    "ViTL16",
    "ViTS16",
    "ViTTi16",
    "load_reference_weights",
]
