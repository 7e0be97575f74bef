"""Heun's method, EDM's second-order sampler."""

import dataclasses
from typing import Any

import keras
from keras import ops

from keras_dblocks.diffusion.samplers.euler import euler_step
from keras_dblocks.diffusion.samplers.sampler import (
    Draws,
    GaussianSampler,
    as_columns,
)


@keras.saving.register_keras_serializable(package="keras_dblocks")
@dataclasses.dataclass(frozen=True)
class HeunSampler(GaussianSampler):
    """Calls the denoiser twice per step; see `GaussianSampler`.

    A step from `s` to `s'` is first Euler's, and is then taken again with the
    mean of the slopes at both ends. The second call belongs to the block that
    owns `s'`, so the next block corrects a block's last step. The step to 0
    has no second call, so there are `2 num_steps - 1` calls in all.

    Example:

    ```python
    partition = Partition(LogNormalNoise(), num_layers=6, num_blocks=3)
    visits = samplers.plan(HeunSampler(5), partition)
    sum(visit.num_calls for visit in visits)  # 9
    ```

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithm 1
    """

    def calls(self, levels: list[float]) -> dict[str, list[float]]:
        rows = []
        for level, following in zip(levels, levels[1:], strict=False):
            step = {"start": level, "end": following}
            rows.append({**step, "level": level, "corrects": 0.0})
            if following:
                rows.append({**step, "level": following, "corrects": 1.0})
        return as_columns(rows)

    def initial(self, noisy: Any) -> tuple:
        # The noisy signal, then where the current step began and the slope
        # there.
        return noisy, ops.zeros_like(noisy), ops.zeros_like(noisy)

    def step(
        self, state: tuple, denoised: Any, call: dict[str, Any], draws: Draws
    ) -> tuple:
        noisy, beginning, first_slope = state
        slope = (noisy - denoised) / call["level"]  # lines 4 and 7
        length = call["end"] - call["start"]
        # Line 5, as a blend: the sum would cancel where noise falls by much.
        predicted = euler_step(noisy, denoised, call["start"], call["end"])
        mean = 0.5 * (first_slope + slope)
        corrected = beginning + length * mean  # line 8
        corrects = call["corrects"] > 0.5
        return (
            ops.where(corrects, corrected, predicted),
            ops.where(corrects, beginning, noisy),
            ops.where(corrects, first_slope, slope),
        )
