"""The systems that show the method, one folder each."""

from keras_dblocks.applications.vit import (
    ViT,
    ViTB16,
    ViTL16,
    ViTS16,
    ViTTi16,
)

__all__ = ["ViT", "ViTB16", "ViTL16", "ViTS16", "ViTTi16"]
