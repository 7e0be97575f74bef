"""Recurrent-depth transformer, trained as a denoiser in a single pass."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_dblocks.applications.text.in_blocks import NextTokenBlocks
from keras_dblocks.applications.text.layers import ScaledLogits, check_heads
from keras_dblocks.applications.text.sandwich import SandwichLayer
from keras_dblocks.checks import check_integer, check_sizes
from keras_dblocks.diffusion.samplers import EulerSampler
from keras_dblocks.diffusion.token_embedding import TokenEmbedding
from keras_dblocks.diffusion.tokens import check_padding
from keras_dblocks.layers import NoiseEmbedding
from keras_dblocks.streams import rows_of

from .layers import RecurrentReadout, RecurrentStem
from .presets import PRESETS
from .writer import RecurrentWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class RecurrentDepth(NextTokenBlocks):
    """Language model whose core refines its answer any number of times.

    It has prelude, recurrent core and coda of a Huginn, as one denoiser over
    the whole noise range. A training step differentiates a single pass, and an
    iteration at inference is a step of reverse diffusion. Slot i's state is
    the noisy embedding of token i, given the tokens before it. `fit(tokens)`
    takes ints `(N, sequence_length)`, and `predict(tokens)` gives logits
    `(N, T, V)`.

    Args:
        vocabulary_size, sequence_length: int. V and T.
        prelude_layers, core_layers, coda_layers: int. Default to 2, 4, 2.
        hidden_dim, num_heads: int. Default to 512 and 8.
        intermediate_dim: int or None, for four times `hidden_dim`.
        conditioning_dim: int. Width of the embedded noise level.
        context: `"states"` (a state attends to the states before it) or
            `"concat"` (it attends to the prelude's output before it, and to
            itself).
        skip: bool. True adds EDM's skip from the noisy row to the answer, as
            in the paper; False takes the answer from the network alone.
        padding_token, tokenizer: as in `ARTransformer`.
        kwargs: keywords of `DiffusionBlocks`; there is one block.

    Example:

    ```python
    model = RecurrentDepth(27, 32, hidden_dim=96, num_heads=4)
    model.compile("adamw")
    model.fit(tokens, epochs=1)
    model.generate([tokens[0, :10]], max_length=32, num_steps=8)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 5.5
     - [Huginn](https://arxiv.org/abs/2502.05171)
    """

    presets = PRESETS
    layers_keyword = "core_layers"
    remat_last = True  # the coda comes after a block's last layer
    # With a smaller share, the answer gets worse with more iterations at
    # inference (README).
    default_on_policy = 1.0
    most_iterations = 1  # without gradient, before an on-policy step

    def __init__(
        self,
        vocabulary_size: int = 27,
        sequence_length: int = 256,
        prelude_layers: int = 2,
        core_layers: int = 4,
        coda_layers: int = 2,
        hidden_dim: int = 512,
        num_heads: int = 8,
        intermediate_dim: int | None = None,
        conditioning_dim: int = 128,
        context: str = "states",
        skip: bool = False,
        padding_token: int | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_integer("vocabulary_size", vocabulary_size, 2)
        check_sizes(
            optional=["intermediate_dim"],
            sequence_length=sequence_length,
            core_layers=core_layers,
            conditioning_dim=conditioning_dim,
            intermediate_dim=intermediate_dim,
        )
        for name, value in (
            ("prelude_layers", prelude_layers),
            ("coda_layers", coda_layers),
        ):
            check_integer(name, value, 0)
        check_heads(hidden_dim, num_heads, None)
        if kwargs.get("num_blocks", 1) != 1:
            raise ValueError(
                "The core is one block over all noise levels. "
                f"Received: num_blocks={kwargs['num_blocks']}. Leave it out."
            )
        if context not in ("states", "concat"):
            raise ValueError(
                '`context` must be "states" or "concat". '
                f'Received: context={context!r}. Use the default, "states".'
            )
        self.skip = skip
        check_padding(padding_token, vocabulary_size)
        self.vocabulary_size = vocabulary_size
        self.padding_token = padding_token
        kwargs |= {"num_layers": core_layers, "num_blocks": 1}
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.prelude_layers = prelude_layers
        self.core_layers = core_layers
        self.coda_layers = coda_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.conditioning_dim = conditioning_dim
        self.context = context
        self.tokenizer = tokenizer

    def make_target(self):
        return TokenEmbedding(
            self.vocabulary_size,
            self.hidden_dim,
            self.sequence_length,
            padding_token=self.padding_token,
            name="tokens",
        )

    def make_noise_embedding(self):
        return NoiseEmbedding(
            self.conditioning_dim,
            output_activation=None,
            name="noise_embedding",
        )

    def _sandwich(self, name, conditioned=True):
        width = self.intermediate_dim or 4 * self.hidden_dim
        return SandwichLayer(self.num_heads, width, conditioned, name=name)

    def make_stem(self):
        layers = [
            self._sandwich(f"prelude_{i}", False)
            for i in range(self.prelude_layers)
        ]
        return RecurrentStem(
            self.vocabulary_size,
            layers,
            context_stream=self.context == "concat",
            name="stem",
        )

    def make_layer(self, index):
        return self._sandwich(f"core_{index}")

    def make_readout(self):
        layers = [self._sandwich(f"coda_{i}") for i in range(self.coda_layers)]
        return RecurrentReadout(layers, name="readout")

    def make_head(self):
        return ScaledLogits(self.vocabulary_size, name="head")

    def make_sampler(self):
        if self.reference:
            return EulerSampler(32, grid="equal_mass", start="noise")
        return EulerSampler(8)

    def hand_over_start(self) -> Callable[..., Any]:
        """Begins with 0 to `most_iterations` steps without gradient.

        The steps' levels fall from the highest to one drawn at random, so that
        training meets the states of any number of steps at inference.
        """
        noise, most = self.noise, self.most_iterations

        def start(block, noisy, condition, stream, step):
            stem = block.stem
            context = stem.context(stem.embed(condition))  # for all steps
            draw = stream.uniform(rows_of(1), (2,), step)[0]
            # Fewer steps are drawn more often, since they matter most and cost
            # least.
            steps = ops.cast(draw[0] ** 2 * (most + 1), "int32")
            share = ops.cast(steps, "float32")

            def level_of(i):
                part = ops.cast(i, "float32") / ops.maximum(share, 1.0)
                return noise.quantile_tensor(1.0 - part * (1.0 - draw[1]))

            def adapted(scaled):
                return stem.adapt(scaled, context)

            def body(i, state):
                levels = level_of(i), level_of(i + 1)
                return block.pass_on(state, condition, levels, adapted)

            batch = ops.shape(noisy)[0]
            level = level_of(0) * ops.ones((batch,), dtype="float32")
            state = noisy, level, *block.nothing_handed(batch)
            return ops.fori_loop(0, steps, body, state)

        return start

    def evaluate(
        self, *args: Any, num_steps: int | None = None, **kwargs: Any
    ) -> Any:
        """`EvaluatesLikelihood.evaluate` after `num_steps` iterations."""
        if num_steps is None:
            return super().evaluate(*args, **kwargs)
        before = self.sampler
        self.sampler = dataclasses.replace(before, num_steps=num_steps)
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.sampler = before

    def make_writer(
        self, num_steps: int | None = None, exit_threshold: float | None = None
    ) -> RecurrentWriter:
        """Makes the `writer.RecurrentWriter` of this model."""
        return RecurrentWriter(self, num_steps, exit_threshold)

    def make_twin(self, num_layers, name):
        config = {**self.get_config(), "core_layers": num_layers, "name": name}
        config["tokenizer"] = self.tokenizer
        return self.make_end_to_end(**config)

    @classmethod
    def make_end_to_end(cls, **kwargs: Any) -> keras.Model:
        """Makes Huginn, which unrolls its core and truncates gradients."""
        from .huginn import Huginn

        return Huginn(**kwargs)
