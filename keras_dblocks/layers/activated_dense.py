"""A dense layer with an activation that is cheaper in a training step."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_dblocks.configuration import Configured


@keras.saving.register_keras_serializable(package="keras_dblocks")
class ActivatedDense(Configured, keras.layers.Dense):
    """`keras.layers.Dense` with bias and activation, for wide outputs.

    It computes what Keras's layer computes. In a training step on PyTorch the
    bias is one more row of the kernel. Adding it eagerly would take a pass
    over the widest array, and its gradient another one.

    Args:
        units, activation: as in `keras.layers.Dense`.
        recompute: bool. On JAX and TensorFlow, compute the activation again
            in the backward pass, so that its intermediate results are not
            kept. On PyTorch an activation is one operation that keeps none.
            Defaults to False.
        kwargs: keywords of `keras.layers.Dense`.

    Example:

    ```python
    ActivatedDense(64, "gelu", recompute=True)(np.zeros((2, 8)))  # (2, 64)
    ```
    """

    def __init__(
        self,
        units: int,
        activation: str | Callable[[Any], Any],
        recompute: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, activation, **kwargs)
        self.recompute = recompute

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        if keras.backend.backend() == "torch":
            one = ops.ones_like(inputs[..., :1])
            bias = ops.expand_dims(self.bias, 0)
            kernel = ops.concatenate([self.kernel, bias], 0)
            x = ops.matmul(ops.concatenate([inputs, one], -1), kernel)
            return self.activation(x)
        if not self.recompute:
            return super().call(inputs)
        x = ops.matmul(inputs, self.kernel) + self.bias
        return keras.remat(self.activation)(x)

    def quantize(
        self,
        mode: str | None = None,
        type_check: bool = True,
        config: Any = None,
    ) -> None:
        """As in Keras, whose type check would refuse this subclass."""
        super().quantize(mode, type_check=False, config=config)
