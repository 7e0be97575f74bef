"""The contract of a target, which defines the clean signal."""

import abc
from typing import Any

import keras
import numpy as np

from keras_dblocks.configuration import Configured
from keras_dblocks.contracts import Contract


class Target(Configured, keras.layers.Layer, Contract):
    """The clean signal that blocks denoise, and the loss of a prediction.

    A target maps what `fit` is given (labels, tokens, images) to the clean
    signal that is noised, and a block's prediction back to an estimate of
    the clean signal. It is a Keras layer: weights are made in `build`,
    arguments are kept as attributes, from which `get_config` is made, and the
    class is registered with `keras.saving.register_keras_serializable`.

    All blocks of a model hold the same target, since block i + 1 reads the
    estimate that block i's prediction is turned into. The methods are called
    by:

    | method | by | when |
    |---|---|---|
    | `signal_shape`, `build` | a block | once, when it is built |
    | `check` | `fit`, `evaluate` | before the first step, on numpy arrays |
    | `call` | a block's loss | in every step, compiled |
    | `loss`, `counts` | a block's loss | in every step, compiled |
    | `position_losses`, `over_positions` | a block's loss | if it is large |
    | `bridge` | samplers, hand-overs | after every call of a denoiser |
    | `in_units` | `predict`, `evaluate` | once a batch, compiled |
    | `restore` | `generate` | once, on numpy arrays |
    | `freeze` | a model with `sharing="targets"` | before `build` |

    See docs/method.md#bridge.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="mine")
    class AbsoluteError(layers.ContinuousSignal):
        def loss(self, x, prediction, noisy, level):
            error = ops.abs(prediction - self(x))
            return ops.mean(ops.reshape(error, (ops.shape(x)[0], -1)), -1)
    ```
    """

    def __init__(self, **kwargs: Any) -> None:
        # Without autocast, the clean signal is float32 under every policy.
        super().__init__(autocast=False, **kwargs)

    @property
    @abc.abstractmethod
    def signal_shape(self) -> tuple[int, ...]:
        """Shape of one clean signal, without the batch (tuple of ints)."""

    @abc.abstractmethod
    def call(self, x):
        """The clean signal of a batch.

        Args:
            x: tensor `(B, ...)`, the part of a batch that is noised, in the
                form that `fit` takes.

        Returns:
            Tensor `(B, *signal_shape)`, float32 (int32 for tokens).
        """

    @abc.abstractmethod
    def bridge(self, prediction: Any) -> Any:
        """Estimate of the clean signal from what the head returns.

        Args:
            prediction: float32 tensor `(B, ...)`, logits for example.

        Returns:
            Tensor `(B, *signal_shape)`.
        """

    @abc.abstractmethod
    def loss(self, x: Any, prediction: Any, noisy: Any, level: Any) -> Any:
        """Loss of each example, before the method's own weights.

        Args:
            x: tensor `(B, ...)`, as `call` takes it.
            prediction: float32 tensor `(B, ...)`, what the head returns.
            noisy: tensor `(B, *signal_shape)` that the block was given.
            level: float32 tensor `(B,)`.

        Returns:
            float32 tensor `(B,)`.
        """

    # A target whose predictions are `(B, T, ...)`, the logits of a vocabulary
    # for example, may define these two. Where predictions are too large to be
    # kept, a step then computes them a chunk of positions at a time.
    #
    # `position_losses(x, prediction, noisy, level)` is like `loss`, for slices
    # along axis 1 of `x`, `prediction` and `noisy`, and returns the losses of
    # their positions, `(B, t)`. `over_positions(losses, x)` makes of all of
    # them, `(B, T)`, what `loss` returns.
    position_losses: Any = None
    over_positions: Any = None

    @classmethod
    def has_position_losses(cls) -> bool:
        """Whether `loss` is the one that belongs to `over_positions`.

        A subclass may define a `loss` of its own.
        """
        if cls.position_losses is None:
            return False
        loss, over = (
            next(kind for kind in cls.__mro__ if name in vars(kind))
            for name in ("loss", "over_positions")
        )
        return loss is over

    def counts(self, x: Any) -> Any:
        """How much each example counts in a mean over examples.

        By default all count alike. Sequences with padding count by the number
        of their other tokens.

        Args:
            x: tensor `(B, ...)`, as `call` takes it.

        Returns:
            float32 tensor `(B,)`, or None if all count alike.
        """
        return None

    def freeze(self, seed: int) -> None:
        """Makes the weights constants that depend on `seed` alone.

        Blocks that are trained apart then agree on them. A target without
        weights need not define this method.
        """

    def check(self, x: Any) -> None:
        """Raises a ValueError if numpy data `(N, ...)` is not a valid `x`."""

    def in_units(self, prediction: Any) -> Any:
        """The prediction in the units of the data; by default as it is.

        Args:
            prediction: float32 tensor `(B, ...)`, what the head returns.

        Returns:
            Tensor of the same shape, which `predict` returns and metrics see.
        """
        return prediction

    def restore(self, clean: np.ndarray) -> np.ndarray:
        """Turns a generated clean signal into user data; by default as is."""
        return clean
