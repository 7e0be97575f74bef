"""The end-to-end twin: Huginn, its core unrolled, backpropagation cut short."""

# B batch, T slots, D hidden_dim, V vocabulary_size

import contextlib

import keras
import numpy as np
from keras import ops

from keras_dblocks.applications.text.decode import past
from keras_dblocks.applications.text.generate import GeneratesText
from keras_dblocks.applications.text.layers import check_heads
from keras_dblocks.applications.text.likelihood import EvaluatesLikelihood
from keras_dblocks.applications.text.strings import TakesStrings
from keras_dblocks.layers.tokens import check_tokens
from keras_dblocks.models.checks import check_integer
from keras_dblocks.models.durable_model import DurableModel

from .iterations import (
    START_SCALE,
    draw_iterations,
    fixed_start,
    iteration_probabilities,
    random_start,
)
from .layers import SandwichLayer
from .twin_writer import HuginnWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Huginn(TakesStrings, EvaluatesLikelihood, GeneratesText, DurableModel):
    """Predicts each token from those before it, by a core that is repeated.

    `fit(tokens)` takes ints `(N, sequence_length)` and minimises the
    cross-entropy; `predict(tokens)` gives the logits `(N, T, V)` of each token
    given those before it, the first one given nothing.

    A training step repeats the core p times, p drawn for the batch, from a
    random state; only the last `backprop_depth` iterations have gradients.
    At inference it is repeated `mean_recurrence` times, or `num_steps`. There
    Huginn's state starts at random too; ours is drawn once from the seed, for
    each slot, whatever the batch and the backend, so that the prediction is a
    function of the tokens, and its likelihood one.

    Args:
        vocabulary_size, sequence_length: int. V and T.
        prelude_layers, core_layers, coda_layers: int. Default to 2, 4, 2.
        hidden_dim, num_heads: int. Default to 512 and 8.
        intermediate_dim: int or None, for four times `hidden_dim`.
        mean_recurrence: int. p is 1 plus a Poisson variable of log-normal
            rate with this mean. Defaults to 32.
        backprop_depth: int. Most iterations with gradients. Defaults to 8.
        tokenizer: as in `ARTransformer`.
        seed: int. Of the order of the data, of p and of the states.
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
        tokenizer=None,
        seed=0,
        dtype=None,
        name="recurrent_depth_end_to_end",
        **blocks_only,
    ):
        super().__init__(dtype=dtype, name=name)
        check_integer("vocabulary_size", vocabulary_size, 2)
        check_integer("sequence_length", sequence_length)
        for key, count, least in (
            ("prelude_layers", prelude_layers, 0),
            ("core_layers", core_layers, 1),
            ("coda_layers", coda_layers, 0),
            ("mean_recurrence", mean_recurrence, 1),
            ("backprop_depth", backprop_depth, 1),
        ):
            check_integer(key, count, least)
        check_heads(hidden_dim, num_heads, None)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.prelude_layers = prelude_layers
        self.core_layers = core_layers
        self.coda_layers = coda_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.mean_recurrence = mean_recurrence
        self.backprop_depth = backprop_depth
        self.tokenizer = tokenizer
        self.seed = seed
        self.first_state = fixed_start(sequence_length, hidden_dim, seed)
        self.iteration_probabilities = iteration_probabilities(mean_recurrence)
        # Hashed: on torch Keras 3.15 adds seed and counter, so that a seed
        # would draw what the next one draws a call later.
        (word,) = np.random.SeedSequence(seed).generate_state(1)
        self.seed_generator = keras.random.SeedGenerator(int(word >> 1))
        self._make_parts()

    def _make_parts(self):
        kwargs = {"dtype": self.dtype_policy}
        dim = self.hidden_dim
        small = _initializer(dim)
        self.embedding = keras.layers.Embedding(
            self.vocabulary_size + 1,  # the last is the beginning
            dim,
            embeddings_initializer=small,
            name="embedding",
            **kwargs,
        )
        self.prelude, self.core, self.coda = (
            [
                SandwichLayer(
                    self.num_heads,
                    self.intermediate_dim or 4 * dim,
                    conditioned=False,
                    name=f"{part}_{index}",
                    **kwargs,
                )
                for index in range(getattr(self, f"{part}_layers"))
            ]
            for part in ("prelude", "core", "coda")
        )
        self.adapter = keras.layers.Dense(
            dim,
            use_bias=False,
            kernel_initializer=small,
            name="adapter",
            **kwargs,
        )
        self.norm = keras.layers.RMSNormalization(name="norm", **kwargs)

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
        # A variable: other numbers need no other compiled function.
        self.num_steps = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.mean_recurrence),
            dtype="int32",
            trainable=False,
            name="num_steps",
        )
        self._track_progress()

    def call(self, x, training=False):
        return self.following(past(x, self.vocabulary_size), training)

    def following(self, tokens, training=False, num_steps=None):
        """Logits `(B, T, V)` of what follows each of the tokens `(B, T)`."""
        context = self.context(tokens)
        if training:
            count = self.draw_iterations()
            start = random_start(ops.shape(context), self.seed_generator)
            state = ops.cast(start, context.dtype)
            return self.logits(self.unrolled(state, context, count))
        if num_steps is None:
            num_steps = ops.convert_to_tensor(self.num_steps)
        state = self.iterated(self.start(context), context, num_steps)
        return self.logits(state)

    def draw_iterations(self):
        """Number of iterations of one training step, int tensor `()`."""
        return draw_iterations(
            self.iteration_probabilities, self.seed_generator
        )

    def rows(self, tokens):
        """Embedded tokens `(B, 1, T, D)`."""
        rows = self.hidden_dim**0.5 * self._table()
        rows = ops.take(rows, ops.cast(tokens, "int32"), axis=0)
        return ops.cast(ops.expand_dims(rows, 1), self.compute_dtype)

    def _table(self):
        return ops.convert_to_tensor(self.embedding.embeddings)

    def context(self, tokens):
        """The prelude's output `(B, 1, T, D)` of tokens `(B, T)`."""
        state = self.rows(tokens)
        for layer in self.prelude:
            state = layer(state)
        return state

    def start(self, context, index=0):
        """The first state of slots from `index` on, at inference."""
        start = ops.convert_to_tensor(self.first_state)
        size = (1, 1, context.shape[2], self.hidden_dim)
        start = ops.slice(start, (0, 0, index, 0), size)
        return ops.cast(start, context.dtype) + ops.zeros_like(context)

    def adapt(self, state, context):
        """What the core makes its next state of."""
        return self.adapter(ops.concatenate([state, context], -1))

    def iteration(self, state, context):
        """The state `(B, 1, T, D)` after the core was run once more."""
        state = self.adapt(state, context)
        for layer in self.core:
            state = layer(state)
        return state

    def iterated(self, state, context, num_steps):
        """The state after `num_steps` iterations, int or int tensor."""

        def body(_, state):
            return self.iteration(state, context)

        return ops.fori_loop(0, num_steps, body, state)

    def unrolled(self, state, context, count):
        """The state after `count` iterations, the last with gradients.

        Args:
            state, context: tensors `(B, 1, T, D)`.
            count: int tensor `()`.
        """
        depth = self.backprop_depth
        free = ops.maximum(count - depth, 0)
        variables = [*self.adapter.variables]
        for layer in self.core:
            variables += layer.variables
        # Weights that need no gradients: JAX cannot go back through a loop of
        # unknown length, and torch would keep what it does not need.
        fixed = [(v, ops.stop_gradient(v.value)) for v in variables]
        with keras.StatelessScope(state_mapping=fixed):
            state = self.iterated(
                ops.stop_gradient(state), ops.stop_gradient(context), free
            )
        state = ops.stop_gradient(state)
        for index in range(depth):
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
        """The same of the coda's output."""
        state = self.norm(state[:, 0])
        table = ops.cast(self._table()[: self.vocabulary_size], state.dtype)
        return ops.cast(ops.matmul(state, ops.transpose(table)), "float32")

    def make_writer(self, num_steps=None):
        """`twin_writer.HuginnWriter` of this model."""
        return HuginnWriter(self, num_steps or self.mean_recurrence)

    def evaluate(self, *args, num_steps=None, **kwargs):
        """`EvaluatesLikelihood.evaluate` after `num_steps` iterations."""
        with self._repeated(num_steps):
            return super().evaluate(*args, **kwargs)

    def predict(self, x, *args, num_steps=None, **kwargs):
        """`keras.Model.predict` after `num_steps` iterations."""
        with self._repeated(num_steps):
            return super().predict(x, *args, **kwargs)

    @contextlib.contextmanager
    def _repeated(self, num_steps):
        if num_steps is None:
            yield
            return
        check_integer("num_steps", num_steps)
        if not self.built:
            self.build()
        self.num_steps.assign(num_steps)
        try:
            yield
        finally:
            self.num_steps.assign(self.mean_recurrence)

    def compile(self, optimizer="adamw", loss=None, **kwargs):
        """`keras.Model.compile`; the loss is the cross-entropy in nats."""
        if loss is not None:
            raise ValueError(
                "The loss is the cross-entropy of the next token. "
                f"Received: loss={loss!r}. Leave it out."
            )
        super().compile(optimizer=optimizer, loss=None, **kwargs)

    def get_compile_config(self):
        return keras.Model.get_compile_config(self)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        entropy = keras.losses.sparse_categorical_crossentropy(
            ops.cast(x, "int32"), y_pred, from_logits=True
        )
        return ops.mean(entropy)

    def check_targets(self, x, y):
        if y is not None:
            raise ValueError(
                "The tokens are data and target at once. Received: y. "
                "Pass them alone, `fit(tokens)`."
            )

    def check_data(self, x, y=None):
        tokens = ops.convert_to_numpy(x)
        check_tokens(tokens, self.vocabulary_size, self.sequence_length)

    def training_step(self):
        return int(self.optimizer._iterations)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras leaves the generator's state out; a resumed run needs it.
        store["random"] = self.seed_generator.state

    def load_own_variables(self, store):
        own = {key: store[key] for key in store.keys() if key != "random"}
        super().load_own_variables(own)
        self.seed_generator.state.assign(store["random"])

    def get_config(self):
        names = (
            "vocabulary_size",
            "sequence_length",
            "prelude_layers",
            "core_layers",
            "coda_layers",
            "hidden_dim",
            "num_heads",
            "intermediate_dim",
            "mean_recurrence",
            "backprop_depth",
            "tokenizer",
            "seed",
        )
        return {**super().get_config(), **{n: getattr(self, n) for n in names}}


def _initializer(dim, depth=0.5):
    # Huginn's `takase`: the smaller, the more layers are added up.
    scale = START_SCALE * (2 * depth * dim) ** -0.5
    return keras.initializers.TruncatedNormal(stddev=scale)


def _initialize(layer, depth):
    """Huginn's first weights of a `SandwichLayer`."""
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
