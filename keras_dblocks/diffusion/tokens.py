"""The clean signal of masked diffusion, which is the tokens themselves."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.noise import expand
from keras_dblocks.diffusion.target import Target


def counting(tokens, padding_token):
    """1 for each of `tokens` `(B, T)` that counts, 0 for padding (float32)."""
    if padding_token is None:
        return ops.ones_like(tokens, dtype="float32")
    return ops.cast(ops.not_equal(tokens, padding_token), "float32")


def mean_over_tokens(values, tokens, padding_token):
    """Mean `(B,)` of `values` `(B, T)` over the tokens that count."""
    if padding_token is None:
        return ops.mean(values, axis=-1)
    counts = counting(tokens, padding_token)
    number = ops.maximum(ops.sum(counts, axis=-1), 1.0)
    return ops.sum(values * counts, axis=-1) / number


class CountsTokens:
    """Targets of tokens, of which `padding_token` (int or None) is no data."""

    def counts(self, tokens):
        if self.padding_token is None:
            return None
        return ops.mean(counting(tokens, self.padding_token), axis=-1)


class LossOfTokens(CountsTokens):
    """Targets whose loss is a mean over the tokens that are no padding."""

    def loss(self, tokens, logits, noisy=None, level=None):
        losses = self.position_losses(tokens, logits, noisy, level)
        return self.over_positions(losses, tokens)

    def over_positions(self, losses, tokens):
        return mean_over_tokens(losses, tokens, self.padding_token)


def cross_entropies(tokens, logits):
    """Cross-entropy of each token, `(B, T)` and `(B, T, V)` to `(B, T)`."""
    return keras.losses.sparse_categorical_crossentropy(
        ops.cast(tokens, "int32"), logits, from_logits=True
    )


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Tokens(LossOfTokens, Target):
    """Sequences of tokens, which are masked without being embedded.

    Args:
        vocabulary_size: int. Tokens are 0 to `vocabulary_size - 1`.
        sequence_length: int.
        padding_token: int or None. Token that does not count in the loss.

    Call arguments:
        tokens: int tensor `(B, T)`.

    Returns:
        int32 tensor `(B, T)`.

    Example:

    ```python
    target = Tokens(vocabulary_size=27, sequence_length=3)
    target(np.array([[0, 5, 26]]))  # the tokens themselves
    ```
    """

    def __init__(
        self,
        vocabulary_size: int,
        sequence_length: int,
        padding_token: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.padding_token = padding_token

    @property
    def signal_shape(self) -> tuple[int, ...]:
        return (self.sequence_length,)

    def build(self, tokens_shape=None):
        """Does nothing, since the layer has no weights."""

    def call(self, tokens):
        return ops.cast(tokens, "int32")

    def bridge(self, logits: Any) -> Any:
        """Returns the logits, from which the sampler draws tokens."""
        return logits

    def position_losses(
        self, tokens: Any, logits: Any, noisy: Any, level: Any
    ) -> Any:
        """Contribution of these masks to the bound, in nats for each token.

        It is the cross-entropy of masked tokens divided by the mask ratio
        (docs/method.md#masked-diffusion).
        """
        masked = ops.cast(noisy == self.vocabulary_size, "float32")
        weight = masked / expand(level, noisy)
        return weight * cross_entropies(tokens, logits)

    def check(self, tokens: Any) -> None:
        """Refuses data that is not sequences of tokens."""
        check_tokens(
            tokens,
            self.vocabulary_size,
            self.sequence_length,
            self.padding_token,
        )

    def compute_output_spec(self, tokens):
        return keras.KerasTensor(tokens.shape, dtype="int32")


def check_tokens(tokens, vocabulary_size, sequence_length, padding_token=None):
    """Refuses data that is not tokens `(N, sequence_length)`, or padding."""
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
    if tokens.size and padding_token is not None:
        if np.all(tokens == padding_token):
            raise ValueError(
                "Text needs tokens that count. Received: "
                f"padding_token={padding_token} alone. Leave such rows out."
            )


def check_padding(padding_token, vocabulary_size):
    """Refuses a padding token that is neither None nor in the vocabulary."""
    if padding_token is None:
        return
    check_integer("padding_token", padding_token, 0)
    if padding_token >= vocabulary_size:
        raise ValueError(
            "`padding_token` must be a token of the vocabulary, 0 to "
            f"{vocabulary_size - 1}. Received: padding_token={padding_token}. "
            "Leave it out if there is no padding."
        )
