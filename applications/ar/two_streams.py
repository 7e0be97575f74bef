"""Stem, noise embedding and writer of the paper's two streams.

With `reference=True` each layer runs on the clean tokens and, beside them, on
the noisy ones, which attend to the clean tokens before them. That takes twice
the layer evaluations of one stream.
"""

# B batch, S streams (clean, noisy), T slots, D hidden_dim, N sequences

import math

import keras
from keras import ops

from keras_dblocks.applications.text.decode import fill_caches
from keras_dblocks.configuration import Configured
from keras_dblocks.layers import NoiseEmbedding

from .layers import previous_tokens
from .writers import BlockWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class TwoLevelEmbedding(NoiseEmbedding):
    """Embeds the levels of both streams, `(B,)` to `(B, 2, output_dim)`.

    The clean stream has a fixed level, so that its keys and values do not
    depend on the noise and can be cached.

    Args:
        clean_level: float. Noise level of the clean stream.
        kwargs: keywords of `NoiseEmbedding`.
    """

    def __init__(self, *args, clean_level=0.002, **kwargs):
        super().__init__(*args, **kwargs)
        self.clean_level = clean_level

    def call(self, c_noise):
        clean = math.log(self.clean_level) / 4 * ops.ones_like(c_noise)
        return super().call(ops.stack([clean, c_noise], -1))

    def compute_output_shape(self, c_noise_shape):
        return (c_noise_shape[0], 2, self.output_dim)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class TwoStreamStem(Configured, keras.layers.Layer):
    """Makes clean and noisy streams: `(B, T, D)` to `(B, 2, T, D)`.

    Noisy slot i stands for a token, and clean slot i for the token before it,
    embedded by the rows of the clean signal.

    Args:
        vocabulary_size, hidden_dim: int.
        target: layer of the clean signal, `TokenEmbedding`.

    Call arguments:
        noisy: scaled tensor `(B, T, D)`.
        condition: int tensor `(B, T)`, the token before each slot. The first
            one is `vocabulary_size`, the start token.
    """

    def __init__(self, vocabulary_size, hidden_dim, target, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.target = target

    def build(self, noisy_shape, condition_shape):
        self.embedding = previous_tokens(  # of the start token alone
            1, self.hidden_dim, dtype=self.dtype_policy
        )
        self.embedding.build(condition_shape)

    def call(self, noisy, condition):
        clean = self.embed(condition)  # (B, T, D)
        return ops.stack([clean, ops.cast(noisy, clean.dtype)], 1)

    def embed(self, tokens):
        """Embedded tokens; `vocabulary_size` is the start token."""
        starts = ops.equal(tokens, self.vocabulary_size)
        start = self.embedding(ops.zeros_like(tokens))
        # EDM's c_in for sigma_data = 0.5 without noise is 2.
        others = 2.0 * self.target(ops.where(starts, 0, tokens))
        others = ops.cast(others, start.dtype)
        return ops.where(ops.expand_dims(starts, -1), start, others)

    def compute_output_spec(self, noisy, condition):
        batch, length, _ = noisy.shape
        shape = (batch, 2, length, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


class TwoStreamWriter(BlockWriter):
    """Next-token logits of the whole chain, with caches for each block.

    Block b's clean pass for a token and its noisy pass for the next one are
    the two streams of one pass. The keys and values are those of the clean
    stream, which all calls of a block have in common.

    Args:
        model: `ARTransformer` with `reference=True`.
        sampler: `samplers.EulerSampler`.
    """

    def fill(self, tokens, starts):
        """Caches of the clean stream of `tokens`, without the noisy one."""
        caches = {}
        for block in self.model.blocks:
            noise = block.noise_embedding(ops.zeros((ops.shape(tokens)[0],)))
            state = ops.expand_dims(block.stem.embed(tokens), 1)
            caches[str(block.index)] = fill_caches(
                block.residual_layers, state, noise=noise[:, :1]
            )
        return caches

    def cache_of(self, call, visit):
        return str(visit.block)
