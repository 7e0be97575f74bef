"""How far generated examples are from real ones, over given features.

For text also what needs no features: variety, repetition, perplexity.
"""

from keras_dblocks.applications.metrics.distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from keras_dblocks.applications.metrics.mauve import (
    bucket_counts,
    mauve,
    mauve_of_counts,
)
from keras_dblocks.applications.metrics.text import (
    distinct,
    generative_perplexity,
    repetition_rate,
    text_quality,
)

__all__ = [
    "bucket_counts",
    "distinct",
    "frechet_distance",
    "generative_perplexity",
    "kernel_distance",
    "mauve",
    "mauve_of_counts",
    "precision_recall",
    "repetition_rate",
    "text_quality",
]
