"""Gaussian noise with log-normal standard deviation."""

import math
from statistics import NormalDist
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks.diffusion.noise import Noise, expand
from keras_dblocks.streams import Stream

# Rational approximations of the normal quantile in the tails, where q is the
# tail's probability and r = sqrt(-ln q). NEAR is in powers of r - 1.6, FAR in
# powers of r - 5. Wichura, AS 241 (1988), PPND7; the relative error is 1e-7.
NEAR = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103)
NEAR_BELOW = (1.0, 0.73700164250, 0.12021132975)
FAR = (6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997)
FAR_BELOW = (1.0, 0.24197894225, 0.012258202635)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class LogNormalNoise(Noise):
    """Gaussian noise whose standard deviation is log-normal, truncated.

    `ln sigma ~ N(p_mean, p_std^2)`, restricted to `[sigma_min, sigma_max]`.

    Args:
        p_mean: float. Mean of `ln sigma`. Defaults to `-1.2`.
        p_std: float. Standard deviation of `ln sigma`. Defaults to `1.2`.
        sigma_min: float. Smallest standard deviation of the noise, in units
            of the clean signal. Defaults to `0.002`.
        sigma_max: float. Largest one, same unit. Defaults to `80`.

    Raises:
        ValueError: if not `0 < sigma_min < sigma_max`, `p_std > 0` and
            `p_mean` finite.

    Example:

    ```python
    noise = LogNormalNoise()
    noise.quantile([0.0, 0.5, 1.0])      # array([2.0e-03, 3.0e-01, 8.0e+01])
    ```

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Table 1
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Section 3.3
    """

    def __init__(
        self,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                "`sigma_min` must be above 0 and below `sigma_max`. "
                f"Received: sigma_min={sigma_min}, sigma_max={sigma_max}. "
                "The paper uses 0.002 and 80."
            )
        if not (p_std > 0 and math.isfinite(p_mean)):
            raise ValueError(
                "`p_std` must be above 0 and `p_mean` finite. Received: "
                f"p_std={p_std}, p_mean={p_mean}. The paper uses 1.2 and -1.2."
            )
        self.p_mean = float(p_mean)
        self.p_std = float(p_std)
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        # The probability below the range, above it, and inside it.
        self._below = self._tail(-self._score(sigma_min))
        self._above = self._tail(self._score(sigma_max))
        self._mass = 1.0 - self._below - self._above

    @property
    def minimum(self) -> float:
        return self.sigma_min

    @property
    def maximum(self) -> float:
        return self.sigma_max

    def _score(self, sigma):
        return (math.log(sigma) - self.p_mean) / self.p_std

    @staticmethod
    def _tail(score):
        """Probability that a standard normal number exceeds `score`."""
        return 0.5 * math.erfc(score / math.sqrt(2.0))

    def cdf(self, level: Any) -> np.ndarray:
        def share(sigma):
            # The smaller of the two tails is the one without cancellation.
            score = self._score(sigma)
            if score < 0:
                return (self._tail(-score) - self._below) / self._mass
            return 1.0 - (self._tail(score) - self._above) / self._mass

        level = np.clip(level, self.sigma_min, self.sigma_max)
        return np.clip(np.vectorize(share, otypes=[float])(level), 0.0, 1.0)

    def quantile(self, probability: Any) -> np.ndarray:
        def score(share):
            if not 0.0 < share < 1.0:  # clipped below to the exact ends
                return math.copysign(math.inf, share - 0.5)
            low = self._below + share * self._mass
            high = self._above + (1.0 - share) * self._mass
            tail = NormalDist().inv_cdf(min(low, high))
            return tail if low < high else -tail

        share = np.asarray(probability, float)
        scores = np.vectorize(score, otypes=[float])(share)
        level = np.exp(self.p_mean + self.p_std * scores)
        return np.clip(level, self.sigma_min, self.sigma_max)

    def quantile_tensor(self, probability: Any) -> Any:
        low = self._below + probability * self._mass
        # In float32, 1 - p is exact where it is the smaller of the two.
        high = self._above + (1.0 - probability) * self._mass
        level = ops.exp(self.p_mean + self.p_std * normal_score(low, high))
        return ops.clip(level, self.sigma_min, self.sigma_max)

    def widen(
        self, low: float, high: float, overlap: float
    ) -> tuple[float, float]:
        """Range `(low, high)` grown by `(high / low) ** overlap` on each side.

        The formula is the paper's (Appendix C). As in the published code, the
        result is clipped to the whole range.
        """
        factor = (high / low) ** overlap
        return max(low / factor, self.minimum), min(high * factor, self.maximum)

    def corrupt(
        self, clean: Any, level: Any, stream: Stream, rows: Any, step: Any
    ) -> Any:
        """`clean + level * eps` in float32, docs/method.md#forward-process."""
        eps = stream.normal(rows, clean.shape[1:], step)
        return ops.cast(clean, "float32") + expand(level, clean) * eps

    def start(
        self,
        rows: Any,
        shape: tuple[int, ...],
        stream: Stream | None = None,
        step: Any = 0,
    ) -> Any:
        if stream is None:
            return ops.zeros((ops.shape(rows)[0], *shape), dtype="float32")
        return self.start_scale * stream.normal(rows, shape, step)

    @property
    def start_scale(self) -> float:
        """Standard deviation of a start from noise (float)."""
        # This is the reference's start; at sigma_max = 80 it differs from
        # sigma_max by 1 in 13,000.
        return math.sqrt(1.0 + self.sigma_max**2)


def normal_score(low, high):
    """Standard normal quantile in float32, from both tails.

    `erfinv(2 low - 1)` alone is infinite once a tail is below 6e-8, which
    under the paper's distribution is a sigma near 200. We therefore compute
    from the smaller tail.

    Args:
        low, high: float32 tensors, the probability below and above.
    """
    tail = ops.minimum(low, high)
    r = ops.sqrt(-ops.log(ops.maximum(tail, 1e-37)))
    near = _ratio(r - 1.6, NEAR, NEAR_BELOW)
    far = _ratio(r - 5.0, FAR, FAR_BELOW)
    outer = ops.where(r <= 5.0, near, far)
    outer = ops.where(low < high, -outer, outer)
    # In the middle of the distribution erfinv loses no digits.
    middle = math.sqrt(2.0) * ops.erfinv(ops.clip(low - high, -0.9, 0.9))
    return ops.where(tail < 0.05, outer, middle)


def _ratio(r, above, below):
    def polynomial(coefficients):
        value = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            value = value * r + coefficient
        return value

    return polynomial(above) / polynomial(below)
