"""Base class of models of the next token that are trained in blocks."""

import keras
from keras import ops

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications.text.decode import shift_right
from keras_dblocks.applications.text.generate import GeneratesText
from keras_dblocks.applications.text.likelihood import EvaluatesLikelihood
from keras_dblocks.applications.text.strings import TakesStrings
from keras_dblocks.diffusion.preconditioning import (
    EDMPreconditioning,
    InputPreconditioning,
)


class NextTokenBlocks(
    TakesStrings, EvaluatesLikelihood, GeneratesText, DiffusionBlocks
):
    """Denoises each token, conditioned on the tokens before it.

    A subclass has the attributes `vocabulary_size`, `sequence_length` and
    `skip`, and the method `make_writer`; see `ARTransformer`.
    """

    hand_overs = ("signal", "state")  # texts are written token by token
    interchangeable = (*DiffusionBlocks.interchangeable, "tokenizer")

    def condition_spec(self):
        return keras.KerasTensor((None, self.sequence_length), dtype="int32")

    def batch_spec(self):
        return (self.condition_spec(),)

    def make_preconditioning(self):
        skip = self.skip or self.reference
        return EDMPreconditioning() if skip else InputPreconditioning()

    def condition_of(self, x):
        return shift_right(x, self.vocabulary_size)

    def split(self, x, y):
        return x, self.condition_of(x)

    def check_data(self, x, y=None):
        self.check_targets(x, y)
        self.target.check(ops.convert_to_numpy(x))
