"""EDM's stochastic sampler: Heun's method with fresh noise before each step."""

import dataclasses
import math
from typing import Any

import keras

from keras_dblocks.diffusion.samplers.heun import HeunSampler
from keras_dblocks.diffusion.samplers.sampler import Draws, as_columns


@keras.saving.register_keras_serializable(package="keras_dblocks")
@dataclasses.dataclass(frozen=True)
class StochasticSampler(HeunSampler):
    """Heun's method with churn; see `GaussianSampler` for the other arguments.

    Before a step from `s`, fresh noise raises the level to `(1 + gamma) s`
    with `gamma = min(churn / num_steps, sqrt(2) - 1)`, but never above the
    first level of the grid.

    Args:
        churn: float, `S_churn` of EDM. 0 is Heun's method. Defaults to `40`.
        churn_range: pair of floats, `S_tmin` and `S_tmax`. Noise is added at
            levels in this range. Defaults to EDM's `(0.05, 50)`.
        noise_scale: float, `S_noise` of EDM. Defaults to `1.003`.

    Example:

    ```python
    sampler = StochasticSampler(
        num_steps=18, grid="karras", start="noise", churn=20.0
    )
    ```

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithm 2
    """

    grid: str = "karras"
    start: str = "noise"
    churn: float = 40.0
    churn_range: tuple = (0.05, 50.0)
    noise_scale: float = 1.003

    planned_fields = (
        *HeunSampler.planned_fields,
        "churn",
        "churn_range",
        "noise_scale",
    )

    def __post_init__(self):
        super().__post_init__()
        # A loaded model passes a list, but a sampler must be hashable.
        object.__setattr__(self, "churn_range", tuple(self.churn_range))
        if not self.churn >= 0:
            raise ValueError(
                "`churn` must be at least 0. "
                f"Received: churn={self.churn}. EDM uses 30 to 80, 0 for none."
            )

    def calls(self, levels: list[float]) -> dict[str, list[float]]:
        low, high = self.churn_range
        gamma = min(self.churn / (len(levels) - 1), math.sqrt(2) - 1)
        raised = [
            min(level * (1 + gamma), levels[0])
            if low <= level <= high
            else level
            for level in levels
        ]
        rows = []
        for i, following in enumerate(levels[1:]):
            # The next step's noise is added after this step's last call.
            spread = math.sqrt(max(raised[i + 1] ** 2 - following**2, 0.0))
            step = {"start": raised[i], "end": following, "spread": 0.0}
            rows.append({**step, "level": raised[i], "corrects": 0.0})
            if following:
                step["spread"] = self.noise_scale * spread
                rows.append({**step, "level": following, "corrects": 1.0})
        return as_columns(rows)

    def step(
        self, state: tuple, denoised: Any, call: dict[str, Any], draws: Draws
    ) -> tuple:
        noisy, *rest = super().step(state, denoised, call, draws)
        noisy = noisy + call["spread"] * draws.normal(noisy.shape[1:])
        return noisy, *rest
