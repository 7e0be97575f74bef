"""Writers of one token, for a chain of blocks and for an ordinary model."""

# N sequences, T slots, D width, V vocabulary_size

import numpy as np
from keras import ops

from keras_dblocks.applications.text.decode import (
    chain_starts,
    fill_caches,
    through_caches,
)
from keras_dblocks.diffusion.samplers import loop


class BlockWriter:
    """Next-token logits of the whole chain, with a cache for each layer.

    Block b's clean pass for a token and its noisy pass for the next one are
    the two streams of one pass.

    Args:
        model: `ARTransformer`.
        sampler: `samplers.EulerSampler`.
    """

    def __init__(self, model, sampler):
        self.model = model
        self.sampler = sampler
        self.visits = loop.plan(sampler, model.partition)
        self.start_token = model.vocabulary_size

    def fill(self, tokens):
        """Caches `{block: [(keys, values) of each layer]}` of `tokens`."""
        caches = {}
        for block in self.model.blocks:
            noise = block.noise_embedding(ops.zeros((ops.shape(tokens)[0],)))
            state = ops.expand_dims(block.stem.embed(tokens), 1)
            caches[str(block.index)] = fill_caches(
                block.residual_layers, state, noise=noise[:, :1]
            )
        return caches

    def starts(self, shape, generator):
        """Start noise `(N, T, D)` of each token's chain, or one zero each."""
        return chain_starts(self.model, self.sampler, shape, generator)

    def write(self, previous, caches, index, start):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        batch = ops.shape(previous)[0]
        condition = ops.expand_dims(previous, 1)
        noisy = ops.zeros((batch, 1, self.model.target.dim)) + start
        state = self.sampler.initial(noisy)
        caches = dict(caches)
        for visit in [one for v in self.visits for one in v.split()]:
            block = self.model.blocks[visit.block]
            call = {name: value for name, (value,) in visit.calls.items()}
            kept = caches[str(visit.block)]

            def through(state, context, block=block, kept=kept):
                layers = block.residual_layers
                return through_caches(
                    layers, state, kept, index, context["noise"]
                )

            level = call["level"] * ops.ones((batch,))
            logits = block.denoise(state[0], level, condition, layers=through)
            denoised = block.target.bridge(logits)
            state = self.sampler.step(state, denoised, call, None)
        return logits[:, 0], caches


class TwinWriter:
    """Next-token logits of an ordinary model, with a cache for each layer.

    Args:
        model: `CausalLM`.
    """

    def __init__(self, model):
        self.model = model
        self.start_token = model.vocabulary_size

    def fill(self, tokens):
        """Caches `[(keys, values) of each layer]` of `tokens`."""
        state = self.model.embed(tokens)
        return fill_caches(self.model.residual_layers, state)

    def starts(self, shape, generator):
        """One zero per token, since there is no start noise."""
        return np.zeros((*shape, 1), "float32")

    def write(self, previous, caches, index, start):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        state = self.model.embed(ops.expand_dims(previous, 1))
        caches = list(caches)
        state = through_caches(self.model.residual_layers, state, caches, index)
        return self.model.logits(state)[:, 0], caches
