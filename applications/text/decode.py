"""The compiled loop that writes text token by token, with caches."""

# N sequences, T slots, V vocabulary_size

import keras
import numpy as np
from keras import ops

from keras_dblocks.diffusion.samplers.tokens import draw, nucleus


class Decoder(keras.Model):
    """Continues prompts, with one slot of every cache for each token.

    Slot i holds token i - 1 (slot 0 the start token) and computes the
    distribution of token i. If a row's prompt is longer than i, token i is
    the prompt's.

    Args:
        writer: the model's writer, as `make_writer` returns it.
        greedy: bool. True takes the likeliest token instead of drawing one.
        top: bool. Whether `top_p` is below 1.
    """

    def __init__(self, writer, greedy, top):
        super().__init__(name="decoder")
        self.writer = writer
        # The model is tracked, since otherwise JAX would compile its weights
        # as constants.
        self.model = writer.model
        self.greedy = greedy
        self.top = top
        self.built = True

    def call(self, inputs):
        tokens, lengths, uniform, starts, settings = inputs
        temperature, top_p, end = settings[0], settings[1], settings[2]
        end = ops.cast(end, "int32")  # -1 for none
        length = tokens.shape[1]
        columns = ops.arange(length, dtype="int32")  # (T,)
        start_token = self.writer.start_token
        caches = self.writer.fill(shift_right(tokens, start_token), starts)

        def more(i, tokens, done, caches):
            return ops.logical_and(i < length, ops.logical_not(ops.all(done)))

        def body(i, tokens, done, caches):
            here = ops.expand_dims(ops.equal(columns, i), 0)
            before = ops.expand_dims(ops.equal(columns, i - 1), 0)
            previous = ops.sum(ops.where(before, tokens, 0), 1)
            previous = ops.where(i > 0, previous, start_token)
            start = ops.where(ops.expand_dims(here, 2), starts, 0.0)
            start = ops.sum(start, 1, keepdims=True)  # (N, 1, D or 1)
            logits, caches = self.writer.write(previous, caches, i, start)
            u = ops.sum(ops.where(here, uniform, 0.0), 1)
            drawn = self._draw(logits, u, temperature, top_p)
            drawn = ops.where(done, end, drawn)
            given = i < lengths  # the prompt has this token
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
        # If the loop ended early, all rows have ended; fill their rest.
        ended = ops.logical_and(columns >= first, ops.expand_dims(done, 1))
        return ops.where(ended, end, tokens)

    def _draw(self, logits, u, temperature, top_p):
        if self.greedy:
            return ops.cast(ops.argmax(logits, -1), "int32")
        logits = logits / temperature
        if self.top:
            logits = nucleus(logits, top_p)
        return draw(logits, u)


def shift_right(tokens, start_token):
    """The token before each of `tokens` `(B, T)`, first `start_token`."""
    tokens = ops.cast(tokens, "int32")
    start = start_token * ops.ones_like(tokens[:, :1])
    return ops.concatenate([start, tokens[:, :-1]], 1)


def through_caches(layers, state, caches, index, noise=None):
    """State after the layers, whose new caches replace those in `caches`."""
    for i, layer in enumerate(layers):
        state, caches[i] = layer(
            state, noise=noise, cache=caches[i], index=index
        )
    return state


def fill_caches(layers, state, noise=None):
    """Caches of the layers for a clean stream `(N, 1, T, D)`."""
    caches = [
        layer.attention.empty_cache(ops.shape(state)[0], state.shape[2])
        for layer in layers
    ]
    through_caches(layers, state, caches, 0, noise)
    return caches


def update_caches(caches, parts, place):
    """Pairs of keys and values with `parts` written to them at `place`."""
    return [
        tuple(ops.slice_update(o, place, n) for o, n in zip(*both, strict=True))
        for both in zip(caches, parts, strict=True)
    ]


def chain_starts(model, sampler, shape, generator):
    """Start noise `(*shape, D)` of each token's chain, or one zero each."""
    if not sampler.starts_from_noise:
        return np.zeros((*shape, 1), "float32")
    noise = generator.standard_normal(
        (*shape, model.target.dim), dtype="float32"
    )
    return np.float32(model.noise.start_scale) * noise
