"""Metrics that compare generated with real examples, given their features.

For text there are also metrics without features: variety of n-grams,
repetition, and perplexity.
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
