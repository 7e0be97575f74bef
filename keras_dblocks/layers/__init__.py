"""Layers a block is made of."""

from keras_dblocks.layers.causal_attention import CausalAttention
from keras_dblocks.layers.continuous_signal import ContinuousSignal
from keras_dblocks.layers.label_embedding import LabelEmbedding
from keras_dblocks.layers.modulated_dense import ModulatedDense
from keras_dblocks.layers.moving_average import MovingAverage
from keras_dblocks.layers.noise_embedding import NoiseEmbedding
from keras_dblocks.layers.noise_modulation import NoiseModulation
from keras_dblocks.layers.patch_embedding import PatchEmbedding
from keras_dblocks.layers.self_attention import SelfAttention
from keras_dblocks.layers.token_embedding import (
    OneHotTokens,
    TokenEmbedding,
)
from keras_dblocks.layers.tokens import Tokens
from keras_dblocks.layers.transformer_layer import TransformerLayer

__all__ = [
    "CausalAttention",
    "ContinuousSignal",
    "LabelEmbedding",
    "ModulatedDense",
    "MovingAverage",
    "NoiseEmbedding",
    "NoiseModulation",
    "OneHotTokens",
    "PatchEmbedding",
    "SelfAttention",
    "TokenEmbedding",
    "Tokens",
    "TransformerLayer",
]
