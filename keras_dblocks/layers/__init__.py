"""Layers that blocks are made of."""

from keras_dblocks.diffusion.continuous_signal import ContinuousSignal
from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.diffusion.token_embedding import (
    OneHotTokens,
    TokenEmbedding,
)
from keras_dblocks.diffusion.tokens import Tokens
from keras_dblocks.layers.activated_dense import ActivatedDense
from keras_dblocks.layers.adaptive_normalization import AdaptiveNormalization
from keras_dblocks.layers.embedding import Embedding
from keras_dblocks.layers.functional_part import FunctionalPart
from keras_dblocks.layers.gated_residual import GatedResidual
from keras_dblocks.layers.handed_state import HandedState
from keras_dblocks.layers.modulation import Modulation
from keras_dblocks.layers.moving_average import MovingAverage
from keras_dblocks.layers.noise_embedding import NoiseEmbedding
from keras_dblocks.layers.noise_modulation import NoiseModulation
from keras_dblocks.layers.patch_embedding import PatchEmbedding
from keras_dblocks.layers.self_attention import SelfAttention
from keras_dblocks.layers.transformer_layer import TransformerLayer

__all__ = [
    "ActivatedDense",
    "AdaptiveNormalization",
    "ContinuousSignal",
    "Embedding",
    "FunctionalPart",
    "GatedResidual",
    "HandedState",
    "LabelEmbedding",
    "Modulation",
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
