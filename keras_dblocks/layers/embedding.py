"""A table of embeddings with dense gradients, which also makes logits."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_dblocks")
class Embedding(keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` with scaled rows, dense gradients.

    On TensorFlow the gradient of a look-up in a variable is sparse. Keras 3.15
    computes the square of a sparse gradient, which Adam needs, wrongly if a
    row was looked up more than once. A look-up in a multiple of the table has
    a dense gradient.

    Args:
        input_dim, output_dim: int. Number of rows of the table, and their
            width.
        scale: float. Factor of the rows that are looked up. Defaults to
            `1.0`.
        reverse_dim: int or None. Number of rows, counted from the first, that
            make logits in reverse. Defaults to None, for all rows.
        kwargs: keywords of `keras.layers.Embedding`.

    Call arguments:
        inputs: int tensor `(...)`, or in reverse a tensor `(..., output_dim)`.
        reverse: bool. True returns logits instead of rows. Defaults to False.

    Returns:
        Tensor `(..., output_dim)`, or in reverse `(..., reverse_dim)`.

    Example:

    ```python
    embedding = Embedding(28, 16, reverse_dim=27)  # no logit for a mask
    rows = embedding(np.zeros((2, 5), "int32"))  # (2, 5, 16)
    embedding(rows, reverse=True)  # (2, 5, 27)
    ```
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        scale: float = 1.0,
        reverse_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_dim, output_dim, **kwargs)
        self.scale = scale
        self.reverse_dim = reverse_dim

    def call(self, inputs, reverse=False):
        if reverse:
            rows = ops.cast(self.embeddings[: self.reverse_dim], inputs.dtype)
            return ops.matmul(inputs, ops.transpose(rows))
        table = self.scale * ops.convert_to_tensor(self.embeddings)
        rows = ops.take(table, ops.cast(inputs, "int32"), axis=0)
        return ops.cast(rows, self.compute_dtype)

    def quantized_call(self, inputs, reverse=False):
        outputs = super().quantized_call(inputs, reverse=reverse)
        if not reverse:
            return self.scale * outputs
        if self.lora_enabled:  # Keras 3.15 leaves LoRA out in reverse
            factor = self.lora_alpha / self.lora_rank
            x = ops.matmul(inputs, ops.transpose(self.lora_embeddings_b))
            x = ops.matmul(x, ops.transpose(self.lora_embeddings_a))
            outputs = ops.cast(outputs + factor * x, outputs.dtype)
        return outputs[..., : self.reverse_dim]

    def quantize(
        self,
        mode: str | None = None,
        type_check: bool = True,
        config: Any = None,
    ) -> None:
        """As in Keras, whose type check would refuse this subclass."""
        super().quantize(mode, type_check=False, config=config)

    def compute_output_shape(self, input_shape, reverse=False):
        if reverse:
            return (*input_shape[:-1], self.reverse_dim or self.input_dim)
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, inputs, reverse=False):
        shape = self.compute_output_shape(inputs.shape, reverse)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        # This class has no use for these arguments.
        for name in ("tie_weights", "reverse_dtype", "logit_soft_cap"):
            config.pop(name)
        return {
            **config,
            "scale": self.scale,
            "reverse_dim": self.reverse_dim,
        }
