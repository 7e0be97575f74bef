"""How far generated examples are from real ones, over given features."""

from keras_dblocks.metrics.distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
)

__all__ = ["frechet_distance", "kernel_distance", "precision_recall"]
