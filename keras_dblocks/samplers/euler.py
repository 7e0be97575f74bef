"""Euler's method."""

from keras_dblocks.samplers.sampler import Sampler


def euler_step(noisy, denoised, level, following):
    """`z' = (s' / s) z + (1 - s' / s) D` (EDM, Algorithm 1 without churn).

    The paper's Equations 3 to 5 have the sign the wrong way round.
    """
    ratio = following / level
    return ratio * noisy + (1.0 - ratio) * denoised


class EulerSampler(Sampler):
    """One call of the denoiser a step; see `Sampler` for the arguments.

    Example:

    ```python
    model.sampler = EulerSampler(num_steps=4, grid="equal_mass", start="noise")
    model.predict(x)
    ```
    """

    name = "euler"

    def schedule(self, levels):
        return {"level": levels[:-1], "following": levels[1:]}

    def step(self, carry, denoised, call):
        (noisy,) = carry
        level, following = call["level"], call["following"]
        return (euler_step(noisy, denoised, level, following),)
