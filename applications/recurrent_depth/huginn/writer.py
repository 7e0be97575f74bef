"""Writes one token with the twin's prelude, repeated core and coda."""

# N sequences, T slots, D width, K number of iterations

import numpy as np
from keras import ops

from keras_dblocks.applications.text.decode import through_caches, update_caches


class HuginnWriter:
    """Next-token logits, with caches for each iteration.

    As in `predict`, a state attends to the states that the slots before it had
    at the same iteration. Each layer of the core therefore has K stacked
    caches, and one compiled loop runs over them.

    Args:
        model: `Huginn`.
        num_steps: int. K.
    """

    def __init__(self, model, num_steps):
        self.model = model
        self.num_steps = num_steps
        self.start_token = model.vocabulary_size

    def fill(self, tokens, starts):
        """Caches `{part: [(keys, values) of each layer]}` of `tokens`."""
        shape = (ops.shape(tokens)[0], tokens.shape[1])
        model = self.model
        caches = {
            "prelude": [self._empty(*shape) for _ in model.prelude],
            "core": [self._empty(self.num_steps, *shape) for _ in model.core],
            "coda": [self._empty(*shape) for _ in model.coda],
        }
        return self._through(tokens, caches, 0)[1]

    def starts(self, shape, generator):
        """One zero per token, since the model has its own first state."""
        return np.zeros((*shape, 1), "float32")

    def write(self, previous, caches, index, start):
        """Logits `(N, V)` after slot `index`, which holds `previous` `(N,)`."""
        state, caches = self._through(
            ops.expand_dims(previous, 1), caches, index
        )
        return self.model.read(state)[:, 0], caches

    def _empty(self, *shape):
        model = self.model
        heads = model.num_heads
        shape = (*shape, heads, model.hidden_dim // heads)
        return (ops.zeros(shape, model.compute_dtype),) * 2

    def _through(self, tokens, caches, index):
        """The coda's output, and caches that include the tokens' slots."""
        model = self.model
        prelude, coda = list(caches["prelude"]), list(caches["coda"])
        context = model.embed(tokens)
        context = through_caches(model.prelude, context, prelude, index)
        start = model.start(context, index)
        state, core = self._iterate(start, context, caches["core"], index)
        state = through_caches(model.coda, model.norm(state), coda, index)
        return state, {"prelude": prelude, "core": core, "coda": coda}

    def _iterate(self, state, context, caches, index):
        """The state after K iterations, and caches that include its slots."""
        batch, length = ops.shape(state)[0], state.shape[2]
        # The loop carries only the new slots, since PyTorch would copy whole
        # caches at every update.
        made = [self._empty(self.num_steps, batch, length) for _ in caches]

        def body(k, carry):
            state, made = carry
            kept = [tuple(part[k] for part in pair) for pair in caches]
            state = self.model.adapt(state, context)
            state = through_caches(self.model.core, state, kept, index)
            size = (batch, length, *made[0][0].shape[3:])
            new = [
                tuple(ops.slice(p, (0, index, 0, 0), size)[None] for p in pair)
                for pair in kept
            ]
            return state, update_caches(made, new, (k, 0, 0, 0, 0))

        state, made = ops.fori_loop(0, self.num_steps, body, (state, made))
        return state, update_caches(caches, made, (0, 0, index, 0, 0))
