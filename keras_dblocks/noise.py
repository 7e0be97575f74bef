"""Noise distributions. Each is known by its quantile function.

A block is an interval of probability, so everything a partition needs is
`cdf` and `quantile`; everything training needs is `quantile` on tensors and
`corrupt`. Probabilities grow with the noise level.
"""

import math
from statistics import NormalDist

import keras
import numpy as np
from keras import ops


class LogNormalNoise:
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

    def __init__(self, p_mean=-1.2, p_std=1.2, sigma_min=0.002, sigma_max=80.0):
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
        self._mass_low = self._normal_cdf(sigma_min)
        self._mass = self._normal_cdf(sigma_max) - self._mass_low

    @property
    def minimum(self):
        """Smallest noise level."""
        return self.sigma_min

    @property
    def maximum(self):
        """Largest noise level."""
        return self.sigma_max

    def _normal_cdf(self, sigma):
        score = (math.log(sigma) - self.p_mean) / self.p_std
        return 0.5 * math.erfc(-score / math.sqrt(2.0))

    def cdf(self, level):
        """Probability of a level at or below `level` (float64 numpy)."""
        level = np.clip(level, self.sigma_min, self.sigma_max)
        mass = np.vectorize(self._normal_cdf, otypes=[float])(level)
        return np.clip((mass - self._mass_low) / self._mass, 0.0, 1.0)

    def quantile(self, probability):
        """Level below which a share `probability` lies (float64 numpy)."""
        mass = self._mass_low + np.asarray(probability, float) * self._mass
        score = np.vectorize(_normal_quantile, otypes=[float])(mass)
        level = np.exp(self.p_mean + self.p_std * score)
        return np.clip(level, self.sigma_min, self.sigma_max)

    def quantile_tensor(self, probability):
        """`quantile` for a float32 tensor inside a compiled step."""
        mass = self._mass_low + probability * self._mass
        score = math.sqrt(2.0) * ops.erfinv(2.0 * mass - 1.0)
        level = ops.exp(self.p_mean + self.p_std * score)
        return ops.clip(level, self.sigma_min, self.sigma_max)

    def widen(self, low, high, overlap):
        """Range `(low, high)` grown by `(high / low) ** overlap` on each side.

        The paper, Appendix C; clipped to the whole range like its code.
        """
        factor = (high / low) ** overlap
        return max(low / factor, self.minimum), min(high * factor, self.maximum)

    def corrupt(self, clean, level, seed):
        """Adds Gaussian noise of standard deviation `level`, in float32.

        Args:
            clean: tensor `(B, ...)`. The clean signal.
            level: tensor `(B,)`. One standard deviation per example.
            seed: `keras.random.SeedGenerator` or int.

        Returns:
            Tensor `(B, ...)`: `clean + level * eps` (METHOD: VE process).
        """
        eps = keras.random.normal(ops.shape(clean), dtype="float32", seed=seed)
        return ops.cast(clean, "float32") + expand(level, clean) * eps

    def start(self, shape, seed=None):
        """Where sampling starts: zeros, or noise at the highest level.

        Args:
            shape: tuple. Shape of the clean signal, batch included.
            seed: None for zeros (the mean of the start distribution), else
                `keras.random.SeedGenerator` or int.
        """
        if seed is None:
            return ops.zeros(shape, dtype="float32")
        eps = keras.random.normal(shape, dtype="float32", seed=seed)
        return self.start_scale * eps

    @property
    def start_scale(self):
        """Standard deviation of a start from noise."""
        # The reference's; at sigma 80 the same as sigma_max.
        return math.sqrt(1.0 + self.sigma_max**2)


def _normal_quantile(mass):
    if 0.0 < mass < 1.0:
        return NormalDist().inv_cdf(mass)
    return math.inf if mass >= 1.0 else -math.inf  # rounded; clipped after


def expand(level, like):
    """Reshapes `(B,)` so that it broadcasts against `like` `(B, ...)`."""
    return ops.reshape(level, (-1,) + (1,) * (len(like.shape) - 1))
