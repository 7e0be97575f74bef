"""Autoregressive transformer, trained block by block."""

import dataclasses
from typing import Any

import keras

from keras_dblocks.applications.text.in_blocks import NextTokenBlocks
from keras_dblocks.applications.text.layers import (
    AmendedLogits,
    ScaledLogits,
    check_heads,
)
from keras_dblocks.applications.text.llama import LlamaLayer
from keras_dblocks.checks import check_integer, check_share, check_sizes
from keras_dblocks.diffusion.samplers import EulerSampler
from keras_dblocks.diffusion.token_embedding import (
    OneHotTokens,
    TokenEmbedding,
)
from keras_dblocks.diffusion.tokens import check_padding
from keras_dblocks.layers import NoiseEmbedding
from keras_dblocks.models.parts import Shell

from .layers import ARReadout, ARStem
from .presets import PRESETS
from .two_streams import TwoLevelEmbedding, TwoStreamStem, TwoStreamWriter
from .writers import BlockWriter


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARTransformer(NextTokenBlocks):
    """Language model whose blocks denoise the embedding of the next token.

    Every block runs its own layers on one causal stream: slot i holds token
    i - 1 and, added to it, what is believed of token i (`layers.ARStem`). By
    default the chain starts from zero, so that its last logits are an
    ordinary predictive distribution, and blocks hand over their last state
    too. With `reference=True` clean and noisy tokens are two streams, as in
    the paper (`two_streams`). `fit(tokens)` takes ints
    `(N, sequence_length)`, and `predict(tokens)` gives the logits `(N, T, V)`
    of each token given those before it.

    Args:
        vocabulary_size: int. V.
        sequence_length: int. T, the longest sequence. Defaults to `256`.
        num_layers, num_blocks, hidden_dim, num_heads: int.
        num_key_value_heads: int or None, for as many as `num_heads`.
        intermediate_dim: int or None, for four times `hidden_dim`.
        dropout: float. Dropout after attention and perceptron. Defaults to
            `0.0`.
        conditioning_dim: int. Width of the embedded noise level. Defaults to
            `128`.
        skip: bool. True adds EDM's skip from the noisy row to the answer, as
            in the paper; False takes the answer from the network alone.
        bridge: `"soft"` or `"unnormalized"`, how logits become the next
            step's row; see `layers.LabelEmbedding`.
        logit_scale: float. Factor of the logits; a tied head needs 10 or
            more. Defaults to `1.0`.
        tied: bool. True takes the target rows as the head's weights.
        simplex: bool. True takes the unit vector of the token as the clean
            signal instead of a row of a table. A block then corrects the
            distribution that it is handed (`OneHotTokens`).
        padding_token: int or None. Token that fills up short sequences, and
            does not count in losses and likelihoods.
        tokenizer: object of `keras_dblocks.applications.data`, or any
            tokenizer of keras-hub. The model then takes and returns strings.
        kwargs: keywords of `DiffusionBlocks`; `reference=True` is the paper's
            method.

    Example:

    ```python
    ar = ARTransformer(27, 32, num_layers=3, hidden_dim=96, num_heads=4)
    ar.compile("adamw")
    ar.fit(tokens, epochs=1)
    ar.generate([tokens[0, :10]], max_length=32, temperature=0.8)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 5.4
    """

    presets = PRESETS
    # Otherwise a late block only learns to read the token off the noisy row,
    # a hint that inference never gives (docs/method.md#on-policy-noise).
    default_on_policy = 1.0
    default_hand_over = "state"
    default_sharing = "targets"
    default_curriculum = "in_sequence"

    def __init__(
        self,
        vocabulary_size: int = 27,
        sequence_length: int = 256,
        hidden_dim: int = 768,
        num_heads: int = 12,
        num_key_value_heads: int | None = None,
        intermediate_dim: int | None = None,
        dropout: float = 0.0,
        conditioning_dim: int = 128,
        skip: bool = False,
        bridge: str = "soft",
        logit_scale: float = 1.0,
        tied: bool = False,
        simplex: bool = False,
        padding_token: int | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_integer("vocabulary_size", vocabulary_size, 2)
        check_sizes(
            optional=["intermediate_dim"],
            sequence_length=sequence_length,
            conditioning_dim=conditioning_dim,
            intermediate_dim=intermediate_dim,
        )
        check_heads(hidden_dim, num_heads, num_key_value_heads)
        check_share("dropout", dropout, "0 to 0.2 is usual.")
        if simplex and (skip or tied or kwargs.get("reference")):
            raise ValueError(
                "`simplex` has no table of rows to skip from or to tie. "
                f"Received: simplex=True with skip={skip}, tied={tied}, "
                f"reference={kwargs.get('reference', False)}. "
                "Leave them out."
            )
        self.skip = skip
        # Of two streams a block's last layer returns one.
        self.keeps_shape = not kwargs.get("reference", False)
        check_padding(padding_token, vocabulary_size)
        self.vocabulary_size = vocabulary_size
        self.padding_token = padding_token
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.conditioning_dim = conditioning_dim
        self.bridge = bridge
        self.logit_scale = logit_scale
        self.tied = tied
        self.simplex = simplex
        self.tokenizer = tokenizer

    def make_target(self):
        if self.simplex:
            return OneHotTokens(
                self.vocabulary_size,
                self.sequence_length,
                bridge=self.bridge,
                padding_token=self.padding_token,
                name="tokens",
            )
        return TokenEmbedding(
            self.vocabulary_size,
            self.hidden_dim,
            self.sequence_length,
            self.bridge,
            padding_token=self.padding_token,
            name="tokens",
        )

    def make_noise_embedding(self):
        options = {"output_activation": None, "name": "noise_embedding"}
        if not self.reference:
            return NoiseEmbedding(self.conditioning_dim, **options)
        return TwoLevelEmbedding(
            self.conditioning_dim, clean_level=self.noise.minimum, **options
        )

    def make_stem(self, target=None):
        sizes = self.vocabulary_size, self.hidden_dim
        if self.reference:
            return TwoStreamStem(*sizes, target, name="stem")
        return ARStem(*sizes, name="stem")

    def make_shell(self, target):
        return Shell(
            noise_embedding=self.make_noise_embedding(),
            stem=self.make_stem(target),
            readout=self.make_readout(),
            head=self.make_head(target if self.tied else None),
        )

    def make_layer(self, index):
        return LlamaLayer(
            self.num_heads,
            self.intermediate_dim or 4 * self.hidden_dim,
            self.num_key_value_heads,
            self.dropout,
            open_gates=not self.reference,
            last_only=self.reference and self._is_last(index),
            name=f"layer_{index}",
        )

    def _is_last(self, index):
        # A block's last layer need not return the clean stream.
        layers_of, blocks = self.partition.layers_of, range(self.num_blocks)
        return index in {layers_of(block)[-1] for block in blocks}

    def make_readout(self):
        return ARReadout(name="readout")

    def make_head(self, target=None):
        if self.simplex:
            return AmendedLogits(self.vocabulary_size, name="head")
        return ScaledLogits(
            self.vocabulary_size, self.logit_scale, target, name="head"
        )

    def make_writer(
        self, num_steps: int | None
    ) -> BlockWriter | TwoStreamWriter:
        """Makes the writer of one token of this model."""
        if not isinstance(self.sampler, EulerSampler):
            raise ValueError(
                "Text is written by Euler's method, one call a block. "
                f"Received: sampler={self.sampler}. Set "
                "`model.sampler = EulerSampler()`."
            )
        sampler = dataclasses.replace(self.sampler, num_steps=num_steps)
        kind = TwoStreamWriter if self.reference else BlockWriter
        return kind(self, sampler)

    def make_twin(self, num_layers, name):
        config = {**self.get_config(), "num_layers": num_layers, "name": name}
        config["tokenizer"] = self.tokenizer
        return self.make_end_to_end(**config)

    @classmethod
    def make_end_to_end(cls, **kwargs: Any) -> keras.Model:
        """Makes an ordinary causal language model of the size, `CausalLM`."""
        from .twin import CausalLM

        return CausalLM(**kwargs)
