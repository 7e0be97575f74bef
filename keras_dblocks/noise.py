"""Noise distributions. Each is known by its quantile function.

A block is an interval of probability, so everything a partition needs is
`cdf` and `quantile`; everything training needs is `quantile` on tensors and
`corrupt`. Probabilities grow with the noise level.
"""

import math
import re
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

    dtype = "float32"  # of what it noises

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


class MaskingNoise:
    """Tokens that are replaced by a mask, each with probability `level`.

    The level is the mask ratio, drawn uniformly: the form of masked diffusion
    that needs no schedule. Ranges of equal probability are then equal
    decrements of `alpha = 1 - level` for every schedule.

    Args:
        mask_token: int. The token that stands for a mask.
        epsilon: float. Levels lie in `[epsilon, 1 - epsilon]`, as in MD4.
            Defaults to `1e-4`.

    Example:

    ```python
    MaskingNoise(mask_token=27).quantile([0.0, 0.5, 1.0])  # 1e-4, 0.5, 0.9999
    ```

    References:
     - [MD4](https://arxiv.org/abs/2406.04329), Sections 2 and 3
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Appendix D
    """

    dtype = "int32"  # of what it noises

    def __init__(self, mask_token, epsilon=1e-4):
        self.mask_token = mask_token
        self.minimum = float(epsilon)
        self.maximum = 1.0 - float(epsilon)

    def cdf(self, level):
        """Probability of a level at or below `level` (float64 numpy)."""
        level = np.clip(np.asarray(level, float), self.minimum, self.maximum)
        return (level - self.minimum) / (self.maximum - self.minimum)

    def quantile(self, probability):
        """Level below which a share `probability` lies, numpy or tensor."""
        width = self.maximum - self.minimum
        if not ops.is_tensor(probability):
            probability = np.asarray(probability, float)
        return self.minimum + probability * width

    quantile_tensor = quantile

    def widen(self, low, high, overlap):
        """Range grown by `overlap` of its width on each side (METHOD 6.3)."""
        grown = overlap * (high - low)
        return max(low - grown, self.minimum), min(high + grown, self.maximum)

    def corrupt(self, clean, level, seed):
        """Masks each token with probability `level`.

        Args:
            clean: int tensor `(B, T)`.
            level: tensor `(B,)`, mask ratios.
            seed: `keras.random.SeedGenerator` or int.

        Returns:
            int32 tensor `(B, T)`.
        """
        clean = ops.cast(clean, "int32")
        draw = keras.random.uniform(
            ops.shape(clean), dtype="float32", seed=seed
        )
        masked = draw < expand(level, clean)
        return ops.where(masked, self.mask_token, clean)

    def start(self, shape, seed=None):
        """Where sampling starts: masks alone."""
        return ops.full(shape, self.mask_token, dtype="int32")


class MaskingSchedule:
    """Share of tokens that are not masked, `alpha`, over the time in [0, 1].

    Args:
        name: `"linear"` (`1 - t`), `"poly2"`, `"poly3"`, ... (`1 - t^p`) or
            `"cosine"` (`1 - cos(pi (1 - t) / 2)`).
        epsilon: float. `alpha` lies in `[epsilon, 1 - epsilon]`.

    References:
     - [MD4](https://arxiv.org/abs/2406.04329), Table 1
    """

    def __init__(self, name="linear", epsilon=1e-4):
        power = re.fullmatch(r"poly([1-9]\d*)", str(name))
        if name not in ("linear", "cosine") and not power:
            raise ValueError(
                '`schedule` must be "linear", "cosine" or "poly" and a power. '
                f'Received: schedule={name!r}. Use the default, "linear".'
            )
        self.name = name
        self.power = int(power[1]) if power else 1
        self.epsilon = epsilon

    def alpha(self, t):
        """Share that is not masked at time `t`, float64 numpy."""
        t = np.asarray(t, float)
        if self.name == "cosine":
            share = 1.0 - np.cos(np.pi / 2 * (1.0 - t))
        else:
            share = 1.0 - t**self.power
        return (1.0 - 2 * self.epsilon) * share + self.epsilon

    def derivative(self, t):
        """Derivative of `alpha`, negative."""
        t = np.asarray(t, float)
        if self.name == "cosine":
            slope = -np.pi / 2 * np.sin(np.pi / 2 * (1.0 - t))
        else:
            slope = -self.power * t ** (self.power - 1)
        return (1.0 - 2 * self.epsilon) * slope

    def time(self, alpha):
        """Time at which `alpha` is reached."""
        share = (np.asarray(alpha, float) - self.epsilon) / (
            1.0 - 2 * self.epsilon
        )
        share = np.clip(share, 0.0, 1.0)
        if self.name == "cosine":
            return 1.0 - 2 / np.pi * np.arccos(1.0 - share)
        return (1.0 - share) ** (1.0 / self.power)


def _normal_quantile(mass):
    if 0.0 < mass < 1.0:
        return NormalDist().inv_cdf(mass)
    return math.inf if mass >= 1.0 else -math.inf  # rounded; clipped after


def expand(level, like):
    """Reshapes `(B,)` so that it broadcasts against `like` `(B, ...)`."""
    return ops.reshape(level, (-1,) + (1,) * (len(like.shape) - 1))
