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
    """Next-token logits of the whole chain, with caches for each call.

    As in training and in `predict`, a slot attends to the slots before it as
    they were at the same call of the chain. Each call therefore has caches of
    its own.

    Args:
        model: `ARTransformer`.
        sampler: `samplers.EulerSampler`.
    """

    def __init__(self, model, sampler):
        self.model = model
        self.sampler = sampler
        visits = loop.plan(sampler, model.partition)
        self.visits = [one for visit in visits for one in visit.split()]
        self.start_token = model.vocabulary_size

    def fill(self, tokens, starts):
        """Caches of `tokens` `(N, T)`, a dict of lists with one per layer."""
        batch, length = ops.shape(tokens)[0], tokens.shape[1]
        caches = {
            self.cache_of(call, visit): [
                layer.attention.empty_cache(batch, length)
                for layer in self.model.blocks[visit.block].residual_layers
            ]
            for call, visit in enumerate(self.visits)
        }
        return self._chain(tokens, caches, 0, starts)[1]

    def cache_of(self, call, visit):
        """Key of the caches of a call (int, from 0), which is a `Visit`."""
        return str(call)

    def starts(self, shape, generator):
        """Start noise `(N, T, D)` of each token's chain, or one zero each."""
        return chain_starts(self.model, self.sampler, shape, generator)

    def write(self, previous, caches, index, start):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        condition = ops.expand_dims(previous, 1)
        logits, caches = self._chain(condition, caches, index, start)
        return logits[:, 0], caches

    def _chain(self, condition, caches, index, start):
        """Logits `(N, T, V)` of slots from `index` on, and the new caches."""
        batch, length = ops.shape(condition)[0], condition.shape[1]
        noisy = ops.zeros((batch, length, self.model.target.dim)) + start
        state, handed = self.sampler.initial(noisy), ()
        caches = {key: list(of_layers) for key, of_layers in caches.items()}
        for number, visit in enumerate(self.visits):
            block = self.model.blocks[visit.block]
            call = {name: value for name, (value,) in visit.calls.items()}
            kept = caches[self.cache_of(number, visit)]

            def through(state, context, block=block, kept=kept):
                layers = block.residual_layers
                return through_caches(
                    layers, state, kept, index, context["noise"]
                )

            level = call["level"] * ops.ones((batch,))
            logits, handed = block.denoise_pass(
                state[0], level, condition, handed, layers=through
            )
            denoised = block.target.bridge(logits)
            state = self.sampler.step(state, denoised, call, None)
        return logits, caches


class TwinWriter:
    """Next-token logits of an ordinary model, with a cache for each layer.

    Args:
        model: `CausalLM`.
    """

    def __init__(self, model):
        self.model = model
        self.start_token = model.vocabulary_size

    def fill(self, tokens, starts):
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
