"""Masking noise for tokens, and schedules of the share that is masked."""

import re
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks.diffusion.noise import Noise, expand
from keras_dblocks.streams import Stream


@keras.saving.register_keras_serializable(package="keras_dblocks")
class MaskingNoise(Noise):
    """Replaces each token by a mask with probability `level`.

    The level is the mask ratio and is drawn uniformly, so that training needs
    no schedule. Ranges of equal probability are then equal decrements of
    `alpha = 1 - level` for every schedule.

    Args:
        mask_token: int. The token that stands for a mask.
        epsilon: float. Levels lie in `[epsilon, 1 - epsilon]`, as in MD4.
            Defaults to `1e-4`.
        padding_token: int or None. A token that is never masked, since it is
            no data: a block sees where padding is and need not predict it.

    Example:

    ```python
    MaskingNoise(mask_token=27).quantile([0.0, 0.5, 1.0])  # 1e-4, 0.5, 0.9999
    ```

    References:
     - [MD4](https://arxiv.org/abs/2406.04329), Sections 2 and 3
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202), Appendix D
    """

    dtype = "int32"  # of the tokens that `corrupt` returns

    def __init__(
        self,
        mask_token: int,
        epsilon: float = 1e-4,
        padding_token: int | None = None,
    ) -> None:
        if not 0 < epsilon < 0.5:
            raise ValueError(
                "`epsilon` must be above 0 and below 0.5. "
                f"Received: epsilon={epsilon}. MD4 uses 1e-4."
            )
        self.mask_token = mask_token
        self.epsilon = float(epsilon)
        self.padding_token = padding_token

    @property
    def minimum(self) -> float:
        return self.epsilon

    @property
    def maximum(self) -> float:
        return 1.0 - self.epsilon

    def cdf(self, level: Any) -> np.ndarray:
        level = np.clip(np.asarray(level, float), self.minimum, self.maximum)
        return (level - self.minimum) / (self.maximum - self.minimum)

    def quantile(self, probability: Any) -> np.ndarray:
        return self.quantile_tensor(np.asarray(probability, float))

    def quantile_tensor(self, probability: Any) -> Any:
        return self.minimum + probability * (self.maximum - self.minimum)

    def widen(
        self, low: float, high: float, overlap: float
    ) -> tuple[float, float]:
        """Range grown by `overlap` of its width on each side.

        The paper does not define an overlap of mask ratios, so this formula
        is ours (docs/method.md#masked-diffusion).
        """
        grown = overlap * (high - low)
        return max(low - grown, self.minimum), min(high + grown, self.maximum)

    def corrupt(
        self, clean: Any, level: Any, stream: Stream, rows: Any, step: Any
    ) -> Any:
        """Masks each token `(B, T)` with probability `level`."""
        clean = ops.cast(clean, "int32")
        draw = stream.uniform(rows, clean.shape[1:], step)
        masked = draw < expand(level, clean)
        if self.padding_token is not None:
            masked = ops.logical_and(masked, clean != self.padding_token)
        return ops.where(masked, self.mask_token, clean)

    def start(
        self,
        rows: Any,
        shape: tuple[int, ...],
        stream: Stream | None = None,
        step: Any = 0,
    ) -> Any:
        """Returns masks alone; nothing is drawn from `stream`."""
        shape = (ops.shape(rows)[0], *shape)
        return ops.full(shape, self.mask_token, dtype="int32")


class MaskingSchedule:
    """Share `alpha` of tokens that are not masked at a time in [0, 1].

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
        """Share of tokens not masked at time `t`, as float64 numpy."""
        t = np.asarray(t, float)
        if self.name == "cosine":
            share = 1.0 - np.cos(np.pi / 2 * (1.0 - t))
        else:
            share = 1.0 - t**self.power
        return (1.0 - 2 * self.epsilon) * share + self.epsilon

    def derivative(self, t):
        """Derivative of `alpha` at time `t`, which is never positive."""
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
