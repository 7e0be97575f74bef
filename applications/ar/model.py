"""Autoregressive transformer, trained block by block."""

import copy

import keras
from keras import ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications.data.strings import TakesStrings
from keras_dblocks.layers import TokenEmbedding
from keras_dblocks.models.checks import check_integer
from keras_dblocks.preconditioning import (
    EDMPreconditioning,
    InputPreconditioning,
)

from .decode import BlockWriter
from .generate import GeneratesText
from .layers import (
    ARReadout,
    ARStem,
    LlamaLayer,
    ScaledLogits,
    TwoLevelEmbedding,
    past,
)
from .likelihood import EvaluatesLikelihood
from .presets import PRESETS


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ARTransformer(
    TakesStrings, EvaluatesLikelihood, GeneratesText, DiffusionBlocks
):
    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=27,
        sequence_length=256,
        hidden_dim=768,
        num_heads=12,
        num_key_value_heads=None,
        intermediate_dim=None,
        dropout=0.0,
        conditioning_dim=128,
        skip=False,
        bridge="soft",
        target_scale=1.0,
        logit_scale=1.0,
        tied=False,
        clean_loss_weight=0.0,
        tokenizer=None,
        **kwargs,
    ):
        check_integer("vocabulary_size", vocabulary_size, 2)
        check_integer("sequence_length", sequence_length)
        self.skip = skip
        self.vocabulary_size = vocabulary_size
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.conditioning_dim = conditioning_dim
        self.bridge = bridge
        self.target_scale = target_scale
        self.logit_scale = logit_scale
        self.tied = tied
        self.clean_loss_weight = clean_loss_weight
        self.tokenizer = tokenizer

    def condition_spec(self):
        shape = (None, getattr(self, "sequence_length", None))
        return keras.KerasTensor(shape, dtype="int32")

    def make_preconditioning(self):
        skip = self.skip or self.__dict__.get("reference")
        return EDMPreconditioning() if skip else InputPreconditioning()

    def make_target(self):
        return TokenEmbedding(
            self.vocabulary_size,
            self.hidden_dim,
            self.sequence_length,
            self.bridge,
            self.target_scale,
            name="tokens",
        )

    def make_noise_embedding(self):
        return TwoLevelEmbedding(
            self.conditioning_dim,
            output_activation=None,
            clean_level=self.noise.minimum,
            name="noise_embedding",
        )

    def make_stem(self):
        target = self._target if self.reference else None
        return ARStem(self.vocabulary_size, target, name="stem")

    def make_layer(self, index):
        return LlamaLayer(
            self.num_heads,
            self.intermediate_dim or 4 * self.hidden_dim,
            self.num_key_value_heads,
            self.dropout,
            open_gates=not self.reference,
            name=f"layer_{index}",
        )

    def make_readout(self):
        return ARReadout(bool(self.clean_loss_weight), name="readout")

    def make_head(self):
        target = self._target if self.tied else None
        return ScaledLogits(
            self.vocabulary_size, self.logit_scale, target, name="head"
        )

    def condition_of(self, x):
        return past(x, self.vocabulary_size)

    def split(self, x, y):
        return x, self.condition_of(x)

    def loss_of(self, target, clean_input, prediction, noisy, level):
        if len(prediction.shape) == 3:
            return target.loss(clean_input, prediction)
        loss = target.loss(clean_input, prediction[:, 1])
        clean = target.loss(clean_input, prediction[:, 0])
        return loss + self.clean_loss_weight * clean

    def make_writer(self, num_steps):
        """`decode.BlockWriter` of this model."""
        sampler = copy.copy(self.sampler)
        sampler.num_steps = num_steps
        return BlockWriter(self, sampler)

    def check_targets(self, x, y):
        if y is not None:
            raise ValueError(
                "The tokens are data and target at once. Received: y. "
                "Pass them alone, `fit(tokens)`."
            )

    def check_data(self, x, y=None):
        self.check_targets(x, y)
        self._target.check(ops.convert_to_numpy(x))

    @classmethod
    def end_to_end(cls, **kwargs):
        """An ordinary causal language model of the same size, `CausalLM`."""
        from .twin import CausalLM

        return CausalLM(**kwargs)
