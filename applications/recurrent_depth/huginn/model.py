"""The end-to-end twin Huginn, unrolled with truncated backpropagation."""

# B batch, T slots, D hidden_dim, V vocabulary_size

import keras
from keras import ops

from keras_dblocks import streams
from keras_dblocks.applications.text.end_to_end import EndToEndText
from keras_dblocks.applications.text.sandwich import SandwichLayer
from keras_dblocks.checks import check_integer

from . import iterations
from .writer import HuginnWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Huginn(EndToEndText):
    """Predicts each token from those before it by a repeated core.

    `fit(tokens)` takes ints `(N, sequence_length)` and minimises the
    cross-entropy. `predict(tokens)` gives the logits `(N, T, V)` of each token
    given those before it, where the first one is given the start token.

    A training step draws a number p for the batch and repeats the core p times
    from a random state. Only the last `backprop_depth` iterations have
    gradients. At inference the core is repeated `mean_recurrence` times, or
    `num_steps` times. There, too, Huginn starts from a random state. Ours
    depends only on the seed and the slot, not on batch or backend, so that
    the prediction is a function of the tokens and has a likelihood.

    Args:
        vocabulary_size, sequence_length: int. V and T.
        prelude_layers, core_layers, coda_layers: int. Default to 2, 4, 2.
        hidden_dim, num_heads: int. Default to 512 and 8.
        intermediate_dim: int or None, for four times `hidden_dim`.
        mean_recurrence: int. p is 1 plus a Poisson variable of log-normal
            rate with this mean. Defaults to 32.
        backprop_depth: int. The largest number of iterations with gradients.
            Defaults to 8.
        padding_token, tokenizer: as in `ARTransformer`.
        seed: int. Seed of the order of the data, of p and of first states.
        blocks_only: keywords of `RecurrentDepth` that only concern blocks.

    References:
     - [Huginn](https://arxiv.org/abs/2502.05171)
    """

    def __init__(
        self,
        vocabulary_size=27,
        sequence_length=256,
        prelude_layers=2,
        core_layers=4,
        coda_layers=2,
        hidden_dim=512,
        num_heads=8,
        intermediate_dim=None,
        mean_recurrence=32,
        backprop_depth=8,
        padding_token=None,
        tokenizer=None,
        seed=0,
        dtype=None,
        name="recurrent_depth_end_to_end",
        **blocks_only,
    ):
        counts = {
            "prelude_layers": prelude_layers,
            "core_layers": core_layers,
            "coda_layers": coda_layers,
            "mean_recurrence": mean_recurrence,
            "backprop_depth": backprop_depth,
        }
        for key, value in counts.items():
            least = 0 if key in ("prelude_layers", "coda_layers") else 1
            check_integer(key, value, least)
        arguments = {
            "vocabulary_size": vocabulary_size,
            "sequence_length": sequence_length,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "padding_token": padding_token,
            "seed": seed,
            **counts,
        }
        super().__init__(
            arguments, tokenizer, dtype, name, iterations.START_SCALE
        )
        kwargs = {"dtype": self.dtype_policy}
        width = intermediate_dim or 4 * hidden_dim
        self.prelude, self.core, self.coda = (
            [
                SandwichLayer(
                    num_heads, width, False, name=f"{part}_{i}", **kwargs
                )
                for i in range(counts[f"{part}_layers"])
            ]
            for part in ("prelude", "core", "coda")
        )
        self.adapter = keras.layers.Dense(
            hidden_dim,
            use_bias=False,
            kernel_initializer=_initializer(hidden_dim),
            name="adapter",
            **kwargs,
        )
        self.norm = keras.layers.RMSNormalization(name="norm", **kwargs)
        self.first_state = iterations.fixed_start(
            sequence_length, hidden_dim, seed
        )
        self.probabilities = iterations.probabilities(mean_recurrence)
        self.seed_generator = keras.random.SeedGenerator()
        streams.seed_layers([self], seed, "iterations")
        # As a variable, it can change without compiling anew.
        self.num_steps = keras.Variable(
            mean_recurrence, trainable=False, dtype="int32", name="num_steps"
        )

    def build(self, input_shape=None):
        shape = (None, 1, self.sequence_length, self.hidden_dim)
        self.embedding.build((None, self.sequence_length))
        depth = self.prelude_layers + self.coda_layers
        depth += self.core_layers * self.mean_recurrence
        for layer in [*self.prelude, *self.core, *self.coda]:
            layer.build(shape)
            _initialize(layer, depth)
        self.adapter.build((*shape[:-1], 2 * self.hidden_dim))
        self.norm.build(shape)
        self.track_progress()

    def following(self, tokens, training=False, num_steps=None):
        """Logits `(B, T, V)` of the token after each of `tokens` `(B, T)`."""
        context = self.context(tokens)
        if training:
            count = self.draw_iterations()
            start = iterations.random_start(
                ops.shape(context), self.seed_generator
            )
            state = ops.cast(start, context.dtype)
            return self.logits(self.unrolled(state, context, count))
        if num_steps is None:
            num_steps = ops.convert_to_tensor(self.num_steps)
        state = self.iterated(self.start(context), context, num_steps)
        return self.logits(state)

    def draw_iterations(self):
        """Number of iterations of one training step, int tensor `()`."""
        return iterations.draw(self.probabilities, self.seed_generator)

    def context(self, tokens):
        """The prelude's output `(B, 1, T, D)` of tokens `(B, T)`."""
        state = self.embed(tokens)
        for layer in self.prelude:
            state = layer(state)
        return state

    def start(self, context, index=0):
        """The first state at inference, of the slots from `index` on."""
        start = ops.convert_to_tensor(self.first_state)
        size = (1, 1, context.shape[2], self.hidden_dim)
        start = ops.slice(start, (0, 0, index, 0), size)
        return ops.cast(start, context.dtype) + ops.zeros_like(context)

    def adapt(self, state, context):
        """Input of the core, mapped from its state and the context."""
        return self.adapter(ops.concatenate([state, context], -1))

    def iteration(self, state, context):
        """The state `(B, 1, T, D)` after one more iteration of the core."""
        state = self.adapt(state, context)
        for layer in self.core:
            state = layer(state)
        return state

    def iterated(self, state, context, num_steps):
        """The state after `num_steps` iterations (int or int tensor)."""
        return ops.fori_loop(
            0, num_steps, lambda _, s: self.iteration(s, context), state
        )

    def unrolled(self, state, context, count):
        """The state after `count` iterations, with gradients of the last ones.

        Args:
            state, context: tensors `(B, 1, T, D)`.
            count: int tensor `()`.
        """
        free = ops.maximum(count - self.backprop_depth, 0)
        # The first iterations stop the gradients of the weights: JAX cannot
        # differentiate a loop of unknown length, and PyTorch would keep
        # activations without need.
        fixed = [
            (variable, ops.stop_gradient(variable.value))
            for part in (self.adapter, *self.core)
            for variable in part.variables
        ]
        with keras.StatelessScope(state_mapping=fixed):
            state = self.iterated(
                ops.stop_gradient(state), ops.stop_gradient(context), free
            )
        state = ops.stop_gradient(state)
        for index in range(self.backprop_depth):
            then = self.iteration(state, context)
            state = ops.where(index < count, then, state)
        return state

    def logits(self, state):
        """Logits `(B, T, V)` of the core's last state `(B, 1, T, D)`."""
        state = self.norm(state)
        for layer in self.coda:
            state = layer(state)
        return self.read(state)

    def read(self, state):
        """Logits `(B, T, V)` of the coda's output `(B, 1, T, D)`."""
        state = self.norm(state[:, 0])
        return ops.cast(self.embedding(state, reverse=True), "float32")

    def make_writer(self, num_steps=None):
        """Makes the `writer.HuginnWriter` of this model."""
        return HuginnWriter(self, num_steps or self.mean_recurrence)

    def evaluate(self, *args, num_steps=None, **kwargs):
        """`EvaluatesLikelihood.evaluate` after `num_steps` iterations."""
        return self._repeated(num_steps, super().evaluate, *args, **kwargs)

    def predict(self, x, *args, num_steps=None, **kwargs):
        """`keras.Model.predict` after `num_steps` iterations."""
        return self._repeated(num_steps, super().predict, x, *args, **kwargs)

    def _repeated(self, num_steps, act, *args, **kwargs):
        if num_steps is None:
            return act(*args, **kwargs)
        check_integer("num_steps", num_steps)
        self.num_steps.assign(num_steps)
        try:
            return act(*args, **kwargs)
        finally:
            self.num_steps.assign(self.mean_recurrence)


def _initializer(dim, depth=0.5):
    # Huginn's `takase`, which is smaller if more layers are summed.
    scale = iterations.START_SCALE * (2 * depth * dim) ** -0.5
    return keras.initializers.TruncatedNormal(stddev=scale)


def _initialize(layer, depth):
    """Assigns Huginn's first weights to a `SandwichLayer`."""
    attention, width = layer.attention, layer.intermediate_dim
    dim = layer.down.units
    inner, outer = _initializer(dim), _initializer(dim, depth)
    for name in ("query", "key", "value"):
        kernel = getattr(attention, f"{name}_dense").kernel
        kernel.assign(inner(kernel.shape))
    for dense in (layer.attention_output, layer.down):
        dense.kernel.assign(outer(dense.kernel.shape))
    gate, up = inner((dim, width)), outer((dim, width))
    layer.fc.kernel.assign(ops.concatenate([gate, up], 1))
