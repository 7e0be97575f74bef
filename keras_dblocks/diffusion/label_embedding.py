"""The clean signal of classification: a table of label embeddings."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks import streams
from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.target import Target


@keras.saving.register_keras_serializable(package="keras_dblocks")
class LabelEmbedding(Target):
    """Maps labels to unit-norm rows of a table, and logits back to a row.

    Args:
        num_classes: int. Rows of the table.
        dim: int. Width of a row.
        bridge: `"soft"` (the expected row under the softmax) or
            `"unnormalized"` (the same with the table before normalisation,
            as in the reference). Defaults to `"soft"`.

    Call arguments:
        labels: int tensor `(B,)` or `(B, 1)`.

    Returns:
        float32 tensor `(B, dim)`, rows of length 1.

    Example:

    ```python
    target = LabelEmbedding(num_classes=10, dim=16)
    rows = target(np.array([3, 7]))  # (2, 16)
    target.bridge(np.zeros((2, 10)))  # the mean of all rows, (2, 16)
    ```

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Appendix B
    """

    def __init__(
        self, num_classes: int, dim: int, bridge: str = "soft", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_integer("num_classes", num_classes)
        check_integer("dim", dim)
        if bridge not in ("soft", "unnormalized"):
            raise ValueError(
                '`bridge` must be "soft" or "unnormalized". '
                f'Received: bridge={bridge!r}. Use the default, "soft".'
            )
        self.num_classes = num_classes
        self.dim = dim
        self.bridge_kind = bridge
        self.frozen_seed: int | None = None

    @property
    def signal_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    def freeze(self, seed: int) -> None:
        """Makes the table a constant that depends on `seed` alone.

        The table is the same on every backend, so that blocks that are
        trained apart agree on it.
        """
        self.frozen_seed = seed

    def build(self, labels_shape=None):
        shape = (self.num_classes, self.dim)
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        if self.frozen_seed is not None:
            draws = streams.generator(self.frozen_seed, "target_table")
            rows = draws.standard_normal(shape)
            rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
            initializer = keras.initializers.Constant(rows.astype("float32"))
        self.table = self.add_weight(
            shape=shape,
            initializer=initializer,
            trainable=self.frozen_seed is None,
            autocast=False,
            name="table",
        )

    def embeddings(self) -> Any:
        """The rows, normalised to length 1, float32 `(classes, dim)`."""
        table = ops.convert_to_tensor(self.table, dtype="float32")
        length = ops.sqrt(ops.sum(table**2, axis=-1, keepdims=True))
        return table / ops.maximum(length, 1e-12)  # (classes, dim)

    def call(self, labels):
        return ops.take(self.embeddings(), self.indices(labels), axis=0)

    def indices(self, labels: Any) -> Any:
        """Labels as an int32 tensor of the shape the loss needs, `(B,)`."""
        return ops.cast(squeezed(labels), "int32")

    def bridge(self, logits: Any) -> Any:
        """Estimate of the clean signal `(B, dim)` from logits `(B, classes)`.

        The reference trains on normalised rows but bridges with the table as
        it is stored. By default we use normalised rows in both places
        (docs/method.md#bridge).
        """
        table = (
            ops.convert_to_tensor(self.table, dtype="float32")
            if self.bridge_kind == "unnormalized"
            else self.embeddings()
        )
        return ops.matmul(ops.softmax(logits, axis=-1), table)

    def loss(
        self, labels: Any, logits: Any, noisy: Any = None, level: Any = None
    ) -> Any:
        """Cross-entropy of each example, `(B,)`, in nats."""
        labels = self.indices(labels)
        return keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )

    def check(self, labels: Any) -> None:
        """Refuses labels that are not an index of the table."""
        check_labels(labels, self.num_classes)

    def compute_output_shape(self, labels_shape):
        return (labels_shape[0], self.dim)

    def compute_output_spec(self, labels):
        shape = self.compute_output_shape(labels.shape)
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        # `bridge` itself is a method.
        return {**super().get_config(), "bridge": self.bridge_kind}


def squeezed(labels):
    """Labels `(B, 1)`, as `keras.datasets` gives some, as `(B,)`."""
    # TensorFlow does not know the rank if a function has met both.
    return ops.reshape(labels, (-1,))


def check_labels(labels, num_classes):
    """Refuses labels that are not integers from 0 to `num_classes - 1`."""
    labels = np.asarray(labels)
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    whole = np.issubdtype(labels.dtype, np.integer)
    if labels.ndim != 1 or not whole:
        if labels.ndim > 1 and whole and not _is_one_hot(labels):
            advice = "For sequences use `layers.TokenEmbedding`."
        elif not labels.size:
            advice = "Pass at least one label."
        elif labels.ndim != 1:
            advice = "Use `np.argmax(y, -1)` on one-hot labels."
        elif labels.dtype.kind in "OSU":
            advice = "Number names with `np.unique(y, return_inverse=True)[1]`."
        else:
            advice = "Use `astype('int32')`."
        raise ValueError(
            "Labels must be integers of shape (N,) or (N, 1). "
            f"Received: {labels.dtype} of shape {labels.shape}. {advice}"
        )
    if labels.size and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(
            f"Labels must lie in 0 to {num_classes - 1}. "
            f"Received: {labels.min()} to {labels.max()}. "
            "Renumber them, or pass a larger `num_classes`."
        )


def _is_one_hot(labels):
    sums = labels.sum(-1) if labels.ndim == 2 else np.zeros(1)
    return (sums == 1).all() and labels.min() >= 0
