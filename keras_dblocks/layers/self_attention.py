"""Self-attention without its output projection."""

from typing import Any

import keras
from keras import ops

from keras_dblocks.checks import check_sizes
from keras_dblocks.configuration import Configured
from keras_dblocks.layers.rotary import rotate


@keras.saving.register_keras_serializable(package="keras_dblocks")
class SelfAttention(Configured, keras.layers.Layer):
    """Scaled dot-product attention of a sequence over itself.

    Unlike `keras.layers.MultiHeadAttention` it has no output projection, which
    the transformer layer fuses with its gate. Without dropout it calls
    `ops.dot_product_attention`, which does not store the attention weights
    if the backend can avoid it.

    Args:
        num_heads: int. Must divide the width.
        dropout: float. Dropout of the attention weights. Defaults to `0.0`.
        rotary: bool. Whether to use rotary positions. Defaults to False.

    Call arguments:
        x: tensor `(B, T, D)`.

    Returns:
        Tensor `(B, T, D)`, the heads side by side.

    Example:

    ```python
    SelfAttention(2, rotary=True)(np.ones((2, 5, 8)))  # (2, 5, 8)
    ```
    """

    def __init__(
        self,
        num_heads: int,
        dropout: float = 0.0,
        rotary: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(num_heads=num_heads)
        self.rotary = rotary
        self.num_heads = num_heads
        self.dropout = dropout

    def build(self, x_shape):
        dim = x_shape[-1]
        for part in ("query", "key", "value"):
            dense = keras.layers.Dense(dim, dtype=self.dtype_policy, name=part)
            setattr(self, f"{part}_dense", dense)
            dense.build(x_shape)
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )

    def call(self, x, training=None):
        length, dim = x.shape[1:]
        heads = (-1, length, self.num_heads, dim // self.num_heads)
        query, key, value = (
            ops.reshape(dense(x), heads)  # (B, T, H, D / H)
            for dense in (self.query_dense, self.key_dense, self.value_dense)
        )
        if self.rotary:
            query, key = rotate(query), rotate(key)
        if training and self.dropout:
            scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
            weights = ops.softmax(scores / heads[-1] ** 0.5, axis=-1)
            weights = self.dropout_layer(weights, training=training)
            result = ops.einsum("bhqk,bkhd->bqhd", weights, value)
        else:
            result = ops.dot_product_attention(query, key, value)
        return ops.reshape(result, (-1, length, dim))

    def compute_output_shape(self, x_shape):
        return x_shape
