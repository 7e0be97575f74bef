"""The systems that show the method, one folder each."""

from keras_dblocks.applications.vit import ViT

__all__ = ["ViT"]
