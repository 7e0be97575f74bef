"""Writes one token by a chosen number of iterations of the core."""

# N sequences, T slots, D width, K number of iterations

import dataclasses

import numpy as np
from keras import ops

from keras_dblocks.applications.text.decode import (
    chain_starts,
    fill_caches,
    through_caches,
    update_caches,
)
from keras_dblocks.diffusion.noise import expand
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.diffusion.samplers.euler import euler_step


class RecurrentWriter:
    """Next-token logits, with caches for each iteration.

    As in training and in `predict`, a state attends to the states that the
    slots before it had at the same iteration. Each iteration therefore has its
    own stacked caches, and one compiled loop runs over them.

    Args:
        model: `RecurrentDepth`.
        num_steps: int or None, for that of the model's sampler.
        exit_threshold: float or None. Iterations end early when no token's
            probability changes by more than this. The last state then takes
            the place of those of the remaining iterations.
    """

    def __init__(self, model, num_steps=None, exit_threshold=None):
        self.model = model
        self.block = model.blocks[0]
        self.sampler = model.sampler
        if num_steps:
            self.sampler = dataclasses.replace(
                self.sampler, num_steps=num_steps
            )
        (visit,) = loop.plan(self.sampler, model.partition)
        self.calls = {
            name: np.array(values, "float32")
            for name, values in visit.calls.items()
        }
        self.num_steps = len(self.calls["level"])
        self.exit_threshold = exit_threshold
        self.start_token = model.vocabulary_size

    @property
    def layers(self):
        """Layers that an iteration runs."""
        return [*self.block.residual_layers, *self.block.readout.coda]

    def fill(self, tokens, starts):
        """Caches of the prelude, and of all iterations on `tokens` `(N, T)`."""
        stem, batch = self.block.stem, ops.shape(tokens)[0]
        length = tokens.shape[1]
        state = stem.embed(tokens)
        prelude = fill_caches(stem.prelude, state)
        core = [
            tuple(
                ops.zeros((self.num_steps, *part.shape), part.dtype)
                for part in layer.attention.empty_cache(batch, length)
            )
            for layer in self.layers
        ]
        start = ops.zeros((batch, length, self.block.target.dim)) + starts
        _, core = self._iterate(start, stem.context(state), core, 0, None)
        return {"prelude": prelude, "core": core}

    def starts(self, shape, generator):
        """Start noise `(N, T, D)` of each token's chain, or one zero each."""
        return chain_starts(self.model, self.sampler, shape, generator)

    def write(self, previous, caches, index, start):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        stem, prelude = self.block.stem, list(caches["prelude"])
        state = stem.embed(ops.expand_dims(previous, 1))
        state = through_caches(stem.prelude, state, prelude, index)
        shape = (ops.shape(previous)[0], 1, self.block.target.dim)
        logits, core = self._iterate(
            ops.zeros(shape) + start,
            stem.norm(state),
            caches["core"],
            index,
            self.exit_threshold,
        )
        return logits[:, 0], {"prelude": prelude, "core": core}

    def _iterate(self, noisy, context, core, index, threshold):
        batch, length = ops.shape(noisy)[0], noisy.shape[1]
        calls = {
            name: ops.convert_to_tensor(values)
            for name, values in self.calls.items()
        }
        logits = ops.zeros((batch, length, self.model.vocabulary_size))
        handed = ()
        if self.block.state_input is not None:
            streams = 1 + self.block.stem.context_stream
            shape = (batch, streams, length, noisy.shape[-1])
            handed = (ops.zeros(shape),)

        def more(k, noisy, logits, handed, change, core):
            if threshold is None:
                return k < self.num_steps
            return ops.logical_and(k < self.num_steps, change > threshold)

        def body(k, noisy, before, handed, change, core):
            caches = [tuple(part[k] for part in pair) for pair in core]
            level, following = calls["level"][k], calls["following"][k]
            logits, handed = self._denoise(
                noisy, context, level, handed, caches, index
            )
            denoised = self.block.target.bridge(logits)
            noisy = euler_step(noisy, denoised, level, following)
            new = [tuple(part[None] for part in pair) for pair in caches]
            core = update_caches(core, new, (k, 0, 0, 0, 0))
            change = ops.softmax(logits, -1) - ops.softmax(before, -1)
            change = ops.max(ops.abs(change))
            return k + 1, noisy, logits, handed, change, core

        k = ops.zeros((), "int32")
        change = ops.full((), np.inf)
        k, noisy, logits, handed, change, core = ops.while_loop(
            more, body, (k, noisy, logits, handed, change, core)
        )
        if threshold is not None:
            core = [self._stand_in(pair, k, index, length) for pair in core]
        return logits, core

    def _denoise(self, noisy, context, level, handed, caches, index):
        block = self.block
        level = level * ops.ones((ops.shape(noisy)[0],))
        scale = self.model.preconditioning(level)
        noise = block.noise_embedding(scale.c_noise)
        scaled = expand(scale.c_in, noisy) * noisy
        state = block.stem.adapt(scaled, context)
        if handed:
            state = block.with_handed(state, handed)
        core = len(block.residual_layers)
        kept = caches[:core], caches[core:]
        state = through_caches(
            block.residual_layers, state, kept[0], index, noise
        )
        if handed:
            handed = (ops.cast(state, "float32"),)
        state = through_caches(block.readout.coda, state, kept[1], index, noise)
        caches[:] = [*kept[0], *kept[1]]
        denoised = ops.cast(block.readout.norm(state[:, -1]), "float32")
        if scale.c_out is not None:
            denoised = expand(scale.c_out, noisy) * denoised
            denoised = expand(scale.c_skip, noisy) * noisy + denoised
        return ops.cast(block.head(denoised), "float32"), handed

    def _stand_in(self, pair, k, index, length):
        """Copies the last iteration's keys and values to those left out."""
        later = ops.arange(self.num_steps, dtype="int32") >= k
        later = ops.reshape(later, (-1, 1, 1, 1, 1))
        result = []
        for part in pair:
            shape = (*part.shape[:2], length, *part.shape[3:])
            place = (0, 0, index, 0, 0)
            made = ops.slice(part, place, shape)
            last = ops.expand_dims(made[k - 1], 0)
            made = ops.where(later, last, made)
            result.append(ops.slice_update(part, place, made))
        return tuple(result)
