"""The clean signal of next-token prediction, a table row per position."""

from typing import Any

import numpy as np
from keras import ops
from keras.saving import register_keras_serializable

from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.diffusion.tokens import (
    LossOfTokens,
    check_tokens,
    cross_entropies,
)


@register_keras_serializable(package="keras_dblocks")
class TokenEmbedding(LossOfTokens, LabelEmbedding):
    """Maps tokens to unit-norm rows of a table, and logits back to rows.

    Args:
        num_classes: int. Size of the vocabulary.
        dim: int. Width of a row.
        sequence_length: int. T.
        bridge: as in `LabelEmbedding`.
        padding_token: int or None. Token that does not count in the loss.

    Call arguments:
        tokens: int tensor `(B, T)`.

    Returns:
        float32 tensor `(B, T, dim)`.

    Example:

    ```python
    target = TokenEmbedding(num_classes=256, dim=64, sequence_length=32)
    target.build()
    target(np.zeros((2, 32), "int32"))  # (2, 32, 64)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 5.4
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        sequence_length: int,
        bridge: str = "soft",
        padding_token: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, dim, bridge, **kwargs)
        self.sequence_length = sequence_length
        self.padding_token = padding_token

    @property
    def signal_shape(self) -> tuple[int, ...]:
        return (self.sequence_length, self.dim)

    def indices(self, labels: Any) -> Any:
        return ops.cast(labels, "int32")

    def compute_output_shape(self, labels_shape):
        return (*labels_shape, self.dim)

    def position_losses(
        self, labels: Any, logits: Any, noisy: Any = None, level: Any = None
    ) -> Any:
        """Cross-entropy of each token, `(B, T)`, in nats."""
        return cross_entropies(labels, logits)

    def check(self, labels: Any) -> None:
        """Refuses data that is not sequences of tokens."""
        labels = np.asarray(labels)
        check_tokens(
            labels, self.num_classes, self.sequence_length, self.padding_token
        )


@register_keras_serializable(package="keras_dblocks")
class OneHotTokens(TokenEmbedding):
    """Maps tokens to unit vectors; the bridge is the softmax.

    The table of unit vectors is not stored. A block is handed the earlier
    blocks' distribution itself.

    Args:
        num_classes: int. Size of the vocabulary, and width of a row.
        sequence_length: int. T.

    Example:

    ```python
    target = OneHotTokens(num_classes=4, sequence_length=2)
    target(np.array([[0, 3]]))  # (1, 2, 4)
    ```
    """

    def __init__(
        self, num_classes: int, sequence_length: int, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, num_classes, sequence_length, **kwargs)

    def build(self, labels_shape=None):
        """Does nothing, since the layer has no weights."""

    def embeddings(self) -> Any:
        return ops.eye(self.num_classes, dtype="float32")

    def call(self, labels):
        labels = ops.cast(labels, "int32")
        return ops.one_hot(labels, self.num_classes, dtype="float32")

    def bridge(self, logits: Any) -> Any:
        return ops.softmax(logits, axis=-1)

    def get_config(self):
        config = super().get_config()
        return {k: v for k, v in config.items() if k != "dim"}
