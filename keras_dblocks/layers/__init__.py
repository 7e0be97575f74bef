"""Layers a block is made of."""

from keras_dblocks.diffusion.continuous_signal import ContinuousSignal
from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.layers.moving_average import MovingAverage
from keras_dblocks.layers.noise_embedding import NoiseEmbedding
from keras_dblocks.layers.noise_modulation import NoiseModulation
from keras_dblocks.layers.patch_embedding import PatchEmbedding
from keras_dblocks.layers.self_attention import SelfAttention
from keras_dblocks.layers.transformer_layer import TransformerLayer

__all__ = [
    "ContinuousSignal",
    "LabelEmbedding",
    "MovingAverage",
    "NoiseEmbedding",
    "NoiseModulation",
    "PatchEmbedding",
    "SelfAttention",
    "TransformerLayer",
]
