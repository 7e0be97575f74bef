"""What a block makes of the last state of the block before it."""

# B batch, D width

import keras

from keras_dblocks.configuration import Configured


@keras.saving.register_keras_serializable(package="keras_dblocks")
class HandedState(Configured, keras.layers.Layer):
    """Adds a normed and projected state to a block's first state.

    The projection starts at zero, so that a block which starts as a copy of
    the block before it is at first exactly as good. Zeros stand for "nothing
    was handed over" and add nothing.

    Call arguments:
        state: tensor `(B, ..., D)`, the block's first state.
        handed: tensor `(B, ..., D)`, the last state of the call before.

    Returns:
        Tensor `(B, ..., D)`.

    Example:

    ```python
    state, handed = np.ones((2, 5, 8)), np.ones((2, 5, 8))
    HandedState()(state, handed)  # at first `state` itself
    ```

    References:
     - [RIN](https://arxiv.org/abs/2212.11972), latent self-conditioning
     - docs/method.md#state-handed-over
    """

    def build(self, state_shape, handed_shape=None):
        dtype = {"dtype": self.dtype_policy}
        self.norm = keras.layers.RMSNormalization(name="norm", **dtype)
        self.projection = keras.layers.Dense(
            state_shape[-1],
            use_bias=False,
            kernel_initializer="zeros",
            name="projection",
            **dtype,
        )
        self.norm.build(state_shape)
        self.projection.build(state_shape)

    def call(self, state, handed):
        return state + self.projection(self.norm(handed))

    def compute_output_shape(self, state_shape, handed_shape=None):
        return state_shape
