"""The end of a residual branch, with projection, gate and sum."""

from typing import Any

import keras

from keras_dblocks.configuration import Configured
from keras_dblocks.rematerialization import recomputed_in_training


@keras.saving.register_keras_serializable(package="keras_dblocks")
class GatedResidual(Configured, keras.layers.Layer):
    """`x + gate * dropout(dense(h))`, which can be computed again.

    If nothing is to be computed again, call a dense layer and `gated_sum`
    instead. On PyTorch, Keras 3.15 keeps the tensors of a call with several
    arguments until garbage is collected, which matters for a wide branch.

    Args:
        use_bias: bool. Whether the dense layer has a bias. Defaults to True.
        dropout: float. Defaults to `0.0`.
        recompute: bool. Compute the projection again in the backward pass,
            so that a training step does not keep it. Defaults to False.

    Call arguments:
        x: tensor `(B, ..., D)`, the residual stream.
        h: tensor `(B, ..., H)`, the branch.
        gate: tensor that broadcasts to `x`, or None for a gate of 1.

    Returns:
        Tensor of the shape of `x`.

    Example:

    ```python
    x, h = np.zeros((2, 5, 8)), np.ones((2, 5, 32))
    GatedResidual()(x, h, gate=np.ones(8))  # (2, 5, 8)
    ```
    """

    def __init__(
        self,
        use_bias: bool = True,
        dropout: float = 0.0,
        recompute: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_bias = use_bias
        self.dropout = dropout
        self.recompute = recompute

    def build(self, x_shape, h_shape):
        self.dense = keras.layers.Dense(
            x_shape[-1],
            use_bias=self.use_bias,
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(h_shape)
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )

    @recomputed_in_training
    def call(self, x, h, gate=None, training=None):
        h = self.dropout_layer(self.dense(h), training=training)
        return gated_sum(x, h, gate)

    def compute_output_shape(self, x_shape, h_shape, gate_shape=None):
        return x_shape


def gated_sum(x, h, gate=None):
    """`x + gate * h`, or `x + h` if there is no gate."""
    return x + (h if gate is None else gate * h)
