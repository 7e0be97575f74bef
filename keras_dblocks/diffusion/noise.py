"""What a noise distribution must offer."""

import abc
from typing import Any

import numpy as np
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.contracts import Contract
from keras_dblocks.streams import Stream


class Noise(Configured, Contract):
    """How the clean signal is noised, and how noise levels are distributed.

    A noise level is one number per example that grows with the noise: the
    standard deviation sigma for Gaussian noise, the share of masks for tokens.
    A block owns an interval of probability, so `Partition` needs `cdf` and
    `quantile`, and training needs `quantile_tensor` and `corrupt`.

    To write one, subclass this class, define the methods below and keep the
    constructor's arguments as attributes. To save it with a model, register
    the class with `keras.saving.register_keras_serializable`. The methods are called by:

    | method | by | when |
    |---|---|---|
    | `minimum`, `maximum`, `cdf`, `quantile`, `widen` | `Partition`, samplers | once, on the host, in float64 numpy |
    | `quantile_tensor`, `corrupt` | a block's loss | in every training step, compiled |
    | `start` | samplers, hand-overs | once a chain, compiled |

    Attributes:
        dtype: str. Dtype of what `corrupt` returns. Defaults to `"float32"`.

    See docs/method.md#noise-distribution.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="mine")
    class NeverWidened(LogNormalNoise):
        def widen(self, low, high, overlap):
            return low, high
    ```
    """  # noqa: E501

    dtype = "float32"

    @property
    @abc.abstractmethod
    def minimum(self) -> float:
        """Smallest noise level (float)."""

    @property
    @abc.abstractmethod
    def maximum(self) -> float:
        """Largest noise level (float)."""

    @abc.abstractmethod
    def cdf(self, level: Any) -> np.ndarray:
        """Probability of a level at or below `level`.

        Args:
            level: float or float64 numpy array of any shape.

        Returns:
            float64 numpy array of that shape, in [0, 1].
        """

    @abc.abstractmethod
    def quantile(self, probability: Any) -> np.ndarray:
        """Level below which a share `probability` lies, the inverse of `cdf`.

        Args:
            probability: float or float64 numpy array in [0, 1].

        Returns:
            float64 numpy array of that shape, `minimum` to `maximum`.
        """

    @abc.abstractmethod
    def quantile_tensor(self, probability: Any) -> Any:
        """`quantile` of a float32 tensor `(B,)`, for a compiled step."""

    @abc.abstractmethod
    def corrupt(
        self, clean: Any, level: Any, stream: Stream, rows: Any, step: Any
    ) -> Any:
        """Adds noise to the clean signal.

        Args:
            clean: tensor `(B, ...)`, what the `Target` returned.
            level: float32 tensor `(B,)`.
            stream: `streams.Stream`, the source of all randomness.
            rows: int32 tensor `(B,)`, the rows' numbers in the stream.
            step: int or int32 tensor `()`, the step in the stream.

        Returns:
            Tensor `(B, ...)` of `dtype`.
        """

    @abc.abstractmethod
    def start(
        self,
        rows: Any,
        shape: tuple[int, ...],
        stream: Stream | None = None,
        step: Any = 0,
    ) -> Any:
        """Noisy signal that the chain starts from, at the highest level.

        Args:
            rows: int32 tensor `(B,)`.
            shape: tuple. Shape of one clean signal.
            stream: `streams.Stream`, or None for the mean of the start
                distribution, which holds no noise.
            step: int or int32 tensor `()`.

        Returns:
            Tensor `(B, *shape)` of `dtype`.
        """

    @abc.abstractmethod
    def widen(
        self, low: float, high: float, overlap: float
    ) -> tuple[float, float]:
        """Widened range that a block that owns `(low, high]` is trained on.

        Args:
            low, high: floats.
            overlap: float in [0, 1].

        Returns:
            Pair of floats within `minimum` and `maximum`.
        """


def expand(level, like):
    """Reshapes `(B,)` so that it broadcasts against `like` `(B, ...)`."""
    return ops.reshape(level, (-1,) + (1,) * (len(like.shape) - 1))
