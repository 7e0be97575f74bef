"""The clean signal of masked diffusion, which is the tokens themselves."""

import keras
import numpy as np
from keras import ops

from keras_dblocks.diffusion.noise import expand
from keras_dblocks.diffusion.target import Target


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Tokens(Target):
    """Sequences of tokens, which are masked without being embedded.

    Args:
        vocabulary_size: int. Tokens are 0 to `vocabulary_size - 1`.
        sequence_length: int.

    Call arguments:
        tokens: int tensor `(B, T)`.

    Returns:
        int32 tensor `(B, T)`.
    """

    def __init__(self, vocabulary_size, sequence_length, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length

    @property
    def signal_shape(self):
        return (self.sequence_length,)

    def build(self, tokens_shape=None):
        """Does nothing, since the layer has no weights."""

    def call(self, tokens):
        return ops.cast(tokens, "int32")

    def bridge(self, logits):
        """Returns the logits, from which the sampler draws tokens."""
        return logits

    def loss(self, tokens, logits, noisy, level):
        """Contribution of these masks to the bound, in nats per token.

        It is the cross-entropy of masked tokens divided by the mask ratio
        (docs/method.md#masked-diffusion).
        """
        masked = ops.cast(noisy == self.vocabulary_size, "float32")
        weight = masked / expand(level, noisy)
        return self.weighted_loss(tokens, logits, weight)

    def weighted_loss(self, tokens, logits, weight):
        """Mean weighted cross-entropy over the sequence, `(B,)`, in nats.

        Args:
            tokens: int tensor `(B, T)`.
            logits: tensor `(B, T, vocabulary_size)`.
            weight: tensor `(B, T)`.
        """
        entropy = keras.losses.sparse_categorical_crossentropy(
            ops.cast(tokens, "int32"), logits, from_logits=True
        )
        return ops.mean(entropy * weight, axis=-1)

    def check(self, tokens):
        """Refuses data that is not sequences of tokens."""
        check_tokens(tokens, self.vocabulary_size, self.sequence_length)

    def compute_output_spec(self, tokens):
        return keras.KerasTensor(tokens.shape, dtype="int32")


def check_tokens(tokens, vocabulary_size, sequence_length):
    """Refuses data that is not tokens `(N, sequence_length)`."""
    tokens = np.asarray(tokens)
    whole = np.issubdtype(tokens.dtype, np.integer)
    if not whole or tokens.shape[1:] != (sequence_length,):
        raise ValueError(
            f"Tokens must be integers (N, {sequence_length}). "
            f"Received: {tokens.dtype} of shape {tokens.shape}. "
            "Cut the text into chunks of that length."
        )
    if tokens.size and not (
        0 <= tokens.min() and tokens.max() < vocabulary_size
    ):
        raise ValueError(
            f"Tokens must lie in 0 to {vocabulary_size - 1}; the mask "
            f"is no data. Received: {tokens.min()} to {tokens.max()}. "
            "Use the tokenizer the model was made for."
        )
