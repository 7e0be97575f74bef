"""Euler's method."""

import dataclasses
from typing import Any

import keras

from keras_dblocks.diffusion.samplers.sampler import Draws, GaussianSampler


def euler_step(noisy: Any, denoised: Any, level: Any, following: Any) -> Any:
    """`z' = (s' / s) z + (1 - s' / s) D` (EDM, Algorithm 1 without churn).

    The paper's Equations 3 to 5 have the sign the wrong way round
    (docs/method.md#errors-in-the-sources).

    Example:

    ```python
    euler_step(noisy=1.0, denoised=0.0, level=2.0, following=1.0)  # 0.5
    ```
    """
    ratio = following / level
    return ratio * noisy + (1.0 - ratio) * denoised


@keras.saving.register_keras_serializable(package="keras_dblocks")
@dataclasses.dataclass(frozen=True)
class EulerSampler(GaussianSampler):
    """Calls the denoiser once per step; see `GaussianSampler`.

    Example:

    ```python
    model.sampler = EulerSampler(num_steps=4, grid="equal_mass", start="noise")
    model.predict(x)
    ```
    """

    def calls(self, levels: list[float]) -> dict[str, list[float]]:
        return {"level": levels[:-1], "following": levels[1:]}

    def step(
        self, state: tuple, denoised: Any, call: dict[str, Any], draws: Draws
    ) -> tuple:
        (noisy,) = state
        return (euler_step(noisy, denoised, call["level"], call["following"]),)
