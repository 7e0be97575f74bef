"""Masked diffusion language model, trained block by block."""

import dataclasses
import functools
from typing import Any

import keras
from keras import ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications.text.strings import TakesStrings
from keras_dblocks.checks import check_integer, check_share, check_sizes
from keras_dblocks.diffusion.masking import MaskingNoise
from keras_dblocks.diffusion.preconditioning import NoPreconditioning
from keras_dblocks.diffusion.samplers import UnmaskingSampler, loop
from keras_dblocks.diffusion.tokens import Tokens, check_padding
from keras_dblocks.layers import (
    NoiseEmbedding,
    TransformerLayer,
)

from .bound import BoundStage, EvaluatesBound
from .generate import GeneratesTokens
from .layers import MDMHead, MDMReadout, MDMStem
from .presets import PRESETS


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MDM(TakesStrings, EvaluatesBound, GeneratesTokens, DiffusionBlocks):
    """Language model that reveals masked tokens, given the others.

    Block 0 owns the highest mask ratios. Each block's loss is its part of the
    variational bound, and the parts add up to the bound. By default a block is
    also handed the last state of the blocks before it on its own masked text,
    so that a call of block i runs i + 1 blocks; with `hand_over="signal"` each
    block runs alone, which is faster and worse. With `num_blocks=1` the model
    is ordinary masked diffusion. `fit(tokens)` takes ints
    `(N, sequence_length)`.

    Args:
        vocabulary_size: int. The mask is token `vocabulary_size`.
        sequence_length: int. Defaults to `256`.
        num_layers, num_blocks, hidden_dim, num_heads: int.
        intermediate_dim: int or None, for four times `hidden_dim`.
        dropout: float. Defaults to `0.0`.
        schedule: `"linear"`, `"poly2"`, `"cosine"` or others, which decides
            when `generate` reaches a mask ratio. Training does not use it.
        tied: bool. True takes the embedding's rows as weights of the logits.
            Defaults to False.
        conditioning_dim: int. Width of the embedded mask ratio. Defaults to
            `128`.
        ema_momentum: float or None. Momentum of the moving average of the
            weights that `generate` uses, which is warmed up. Defaults to
            `0.9999`.
        padding_token: int or None. Token that fills up short sequences. It is
            never masked, and does not count in losses and the bound.
        tokenizer: object of `keras_dblocks.applications.data`, or any
            tokenizer of keras-hub. With it, `fit` and `evaluate` also take
            strings and `generate` returns them. It is saved if its class is
            registered with Keras.
        kwargs: keywords of `DiffusionBlocks`.

    Example:

    ```python
    mdm = MDM(
        27, sequence_length=32, num_layers=3, hidden_dim=96, num_heads=4
    )
    mdm.compile("adamw")
    mdm.fit(tokens, epochs=1)
    mdm.generate(num_samples=8, num_steps=64)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 5.3
     - [MD4](https://arxiv.org/abs/2406.04329)
    """

    presets = PRESETS
    interchangeable = (
        *DiffusionBlocks.interchangeable,
        "schedule",
        "tokenizer",
    )
    # The signal that blocks hand over is never learned from: what they reveal
    # is another text. Nor need it be: masks hide the answer at every ratio.
    hand_overs = ("signal", "state_alone")
    default_on_policy = 0.0
    default_hand_over = "state_alone"
    default_sharing = "targets"
    default_partition = "mostly_last"
    default_curriculum = "equal_parts"

    def __init__(
        self,
        vocabulary_size: int = 27,
        sequence_length: int = 256,
        hidden_dim: int = 768,
        num_heads: int = 12,
        intermediate_dim: int | None = None,
        dropout: float = 0.0,
        schedule: str = "linear",
        tied: bool = False,
        conditioning_dim: int = 128,
        ema_momentum: float | None = 0.9999,
        padding_token: int | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        check_integer("vocabulary_size", vocabulary_size, 2)
        check_sizes(
            optional=["intermediate_dim"],
            sequence_length=sequence_length,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            conditioning_dim=conditioning_dim,
            intermediate_dim=intermediate_dim,
        )
        check_share("dropout", dropout, "MD4 uses 0 to 0.05.")
        check_share("ema_momentum", ema_momentum or 0.0, "MD4 uses 0.9999.")
        if hidden_dim % (2 * num_heads):
            raise ValueError(
                "`hidden_dim` must be a multiple of twice `num_heads`, for "
                f"rotary positions. Received: num_heads={num_heads} for "
                f"hidden_dim={hidden_dim}. Change either."
            )
        check_padding(padding_token, vocabulary_size)
        self.vocabulary_size = vocabulary_size
        self.padding_token = padding_token
        self.schedule = schedule
        if kwargs.get("hand_over") == "signal":
            self.default_sharing = "all"
            self.default_partition = "equal_probability"
            self.default_curriculum = "common_start"
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.tied = tied
        self.conditioning_dim = conditioning_dim
        self.ema_momentum = ema_momentum
        self.tokenizer = tokenizer
        if self.loss_weighting not in (None, "none"):
            raise ValueError(
                "The bound has weights of its own, 1 / mask ratio. Received: "
                f"loss_weighting={self.loss_weighting!r}. Leave it out."
            )
        self._bound_stage = functools.cache(
            lambda index: BoundStage(loop.running(self.blocks, index))
        )

    def condition_spec(self):
        return None

    def batch_spec(self):
        return (keras.KerasTensor((None, self.sequence_length), "int32"),)

    def make_noise(self):
        return MaskingNoise(
            self.vocabulary_size, padding_token=self.padding_token
        )

    def make_preconditioning(self):
        return NoPreconditioning()

    def make_target(self):
        return Tokens(
            self.vocabulary_size,
            self.sequence_length,
            self.padding_token,
            name="tokens",
        )

    def make_noise_embedding(self):
        return NoiseEmbedding(
            self.conditioning_dim,
            output_activation=None,
            name="noise_embedding",
        )

    def make_stem(self):
        return MDMStem(self.vocabulary_size, self.hidden_dim, name="stem")

    def make_layer(self, index):
        return TransformerLayer(
            self.num_heads,
            self.intermediate_dim or 4 * self.hidden_dim,
            self.dropout,
            epsilon=1e-6,
            activation="gelu_tanh",
            modulation="before",
            affine=False,
            rotary=True,
            open_gates=not self.reference,
            name=f"layer_{index}",
        )

    def make_readout(self):
        return MDMReadout(name="readout")

    def make_head(self):
        return MDMHead(self.vocabulary_size, name="head")

    def make_shell(self, target):
        shell = super().make_shell(target)
        if not self.tied:
            return shell
        embedding = shell.stem.embedding
        head = MDMHead(self.vocabulary_size, embedding, name="head")
        return dataclasses.replace(shell, head=head)

    def make_sampler(self):
        steps = max(64, self.num_blocks)
        return UnmaskingSampler(
            steps,
            schedule=self.schedule,
            mask_token=self.vocabulary_size,
            seed=self.seed,
        )

    def default_loss_weighting(self):
        return "none"

    def split(self, x, y):
        return x, None

    def is_condition(self, x):
        return False

    def compile(
        self, *args: Any, on_policy: float | str = "auto", **kwargs: Any
    ) -> None:
        """`BlockTrainer.compile`, where no signal can be handed over."""
        if self.hand_over != "state_alone" and on_policy not in ("auto", 0):
            raise ValueError(
                "What earlier blocks reveal is another text than the one to "
                f"be learned. Received: on_policy={on_policy} with hand_over="
                f"{self.hand_over!r}. Leave it out, or build the model with "
                'hand_over="state_alone".'
            )
        super().compile(*args, on_policy=on_policy, **kwargs)

    def check_data(self, x, y=None):
        self.check_targets(x, y)
        self.target.check(ops.convert_to_numpy(x))

    @classmethod
    def make_end_to_end(cls, **kwargs: Any) -> keras.Model:
        """Makes ordinary masked diffusion, this class with one block."""
        return cls(**{**kwargs, "num_blocks": 1, "layers_per_block": None})
