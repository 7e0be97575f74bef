"""The loop that writes text token by token, compiled, with caches."""

# N sequences, T slots, V vocabulary_size

import keras
from keras import ops

from keras_dblocks.samplers.unmasking import nucleus

from .layers import past


class Decoder(keras.Model):
    """Goes on from prompts; one slot of every cache per token.

    Slot i holds token i - 1 (slot 0 the beginning), and what it computes is
    the distribution of token i. Where a row's prompt is longer than i, the
    prompt decides.

    Args:
        writer: `BlockWriter` or `TwinWriter`.
        greedy: bool. The likeliest token instead of a drawn one.
        top: bool. Whether `top_p` is below 1.
    """

    def __init__(self, writer, greedy, top):
        super().__init__(name="decoder")
        self.writer = writer
        self.greedy = greedy
        self.top = top
        self.built = True

    def call(self, inputs):
        tokens, lengths, uniform, settings = inputs
        temperature, top_p, end = settings[0], settings[1], settings[2]
        end = ops.cast(end, "int32")  # -1 for none
        length = tokens.shape[1]
        columns = ops.arange(length, dtype="int32")  # (T,)
        caches = self.writer.fill(past(tokens, self.writer.beginning))

        def more(i, tokens, done, caches):
            return ops.logical_and(i < length, ops.logical_not(ops.all(done)))

        def body(i, tokens, done, caches):
            here = ops.expand_dims(ops.equal(columns, i), 0)
            before = ops.expand_dims(ops.equal(columns, i - 1), 0)
            previous = ops.sum(ops.where(before, tokens, 0), 1)
            previous = ops.where(i > 0, previous, self.writer.beginning)
            logits, caches = self.writer.write(previous, caches, i)
            u = ops.sum(ops.where(here, uniform, 0.0), 1)
            drawn = self._draw(logits, u, temperature, top_p)
            drawn = ops.where(done, end, drawn)
            given = i < lengths  # the prompt's
            there = ops.sum(ops.where(here, tokens, 0), 1)
            token = ops.where(given, there, drawn)
            ended = ops.logical_and(ops.equal(drawn, end), ~given)
            tokens = ops.where(here, ops.expand_dims(token, 1), tokens)
            return i + 1, tokens, ops.logical_or(done, ended), caches

        first = ops.min(lengths)
        done = ops.zeros_like(lengths, dtype="bool")
        first, tokens, done, _ = ops.while_loop(
            more, body, (first, tokens, done, caches)
        )
        # Left early: all have ended.
        ended = ops.logical_and(columns >= first, ops.expand_dims(done, 1))
        return ops.where(ended, end, tokens)

    def _draw(self, logits, u, temperature, top_p):
        if self.greedy:
            return ops.cast(ops.argmax(logits, -1), "int32")
        logits = logits / temperature
        if self.top:
            logits = nucleus(logits, top_p)
        share = ops.cumsum(ops.softmax(logits, axis=-1), axis=-1)
        # u of the whole, so that rounding cannot point past the last token.
        passed = share <= ops.expand_dims(u, 1) * share[:, -1:]
        return ops.sum(ops.cast(passed, "int32"), -1)


class BlockWriter:
    """Next-token logits of the whole chain, with a cache per layer.

    Block b's clean pass for a token and its noisy pass for the next one need
    nothing of each other: they are two streams of one pass.

    Args:
        model: `ARTransformer`.
        sampler: `samplers.Sampler` with a start from zero.
    """

    def __init__(self, model, sampler):
        self.model = model
        self.sampler = sampler
        self.visits = sampler.plan(model.partition)
        self.beginning = model.vocabulary_size

    def fill(self, tokens):
        """Caches `{block: [(keys, values) of each layer]}` of `tokens`."""
        caches = {}
        for block in self.model.blocks:
            noise = block.noise_embedding(ops.zeros((ops.shape(tokens)[0],)))
            state = ops.expand_dims(block.stem.rows(tokens), 1)
            caches[str(block.index)] = _fill(
                block.residual_layers, state, noise=noise[:, :1]
            )
        return caches

    def write(self, previous, caches, index):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        batch = ops.shape(previous)[0]
        condition = ops.expand_dims(previous, 1)
        dim = self.model.hidden_dim
        noisy = ops.zeros((batch, 1, dim))
        carry = self.sampler.carry(noisy)
        caches = dict(caches)
        for visit in [one for v in self.visits for one in v.split()]:
            block = self.model.blocks[visit.block]
            call = {name: value for name, (value,) in visit.calls.items()}
            kept = caches[str(visit.block)]

            def through(state, context, block=block, kept=kept):
                layers = block.residual_layers
                return _through(layers, state, kept, index, context["noise"])

            level = call["level"] * ops.ones((batch,))
            logits = block.denoise(carry[0], level, condition, layers=through)
            denoised = block.target.bridge(logits)
            carry = self.sampler.step(carry, denoised, call)
        return logits[:, 0], caches


class TwinWriter:
    """The same of an ordinary model.

    Args:
        model: `CausalLM`.
    """

    def __init__(self, model):
        self.model = model
        self.beginning = model.vocabulary_size

    def fill(self, tokens):
        """Caches `[(keys, values) of each layer]` of `tokens`."""
        state = self.model.rows(tokens)
        return _fill(self.model.residual_layers, state)

    def write(self, previous, caches, index):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        state = self.model.rows(ops.expand_dims(previous, 1))
        caches = list(caches)
        state = _through(self.model.residual_layers, state, caches, index)
        return self.model.logits(state)[:, 0], caches


def _through(layers, state, caches, index, noise=None):
    """State after the layers; writes their caches into the list `caches`."""
    for i, layer in enumerate(layers):
        state, caches[i] = layer(
            state, noise=noise, cache=caches[i], index=index
        )
    return state


def _fill(layers, state, noise=None):
    """Caches of the layers for a clean stream `(N, 1, T, D)`."""
    caches = [
        layer.empty_cache(ops.shape(state)[0], state.shape[2])
        for layer in layers
    ]
    _through(layers, state, caches, 0, noise)
    return caches
