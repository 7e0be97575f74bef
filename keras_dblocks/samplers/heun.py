"""Heun's method, EDM's second-order sampler."""

from keras import ops

from keras_dblocks.samplers.euler import euler_step
from keras_dblocks.samplers.sampler import Sampler, as_lists


class HeunSampler(Sampler):
    """Two calls of the denoiser a step; see `Sampler` for the arguments.

    A step from `s` to `s'` is Euler's, then taken again with the mean of the
    slopes at both ends. The second call belongs to the block that owns `s'`,
    so a block's last step is corrected by the next one. The step to 0 has no
    second call: `2 num_steps - 1` in all.

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithm 1
    """

    name = "heun"

    def schedule(self, levels):
        rows = []
        for level, following in zip(levels, levels[1:], strict=False):
            row = {"level": level, "following": following, "previous": level}
            rows.append({**row, "corrects": 0.0})
            if following:
                rows.append({**row, "level": following, "corrects": 1.0})
        return as_lists(rows)

    def carry(self, noisy, stream=0):
        # Noisy signal; where the step began; the slope there.
        return (noisy, ops.zeros_like(noisy), ops.zeros_like(noisy))

    def step(self, carry, denoised, call):
        noisy, begin, slope = carry
        level, following = call["level"], call["following"]
        change = (noisy - denoised) / level
        predicted = euler_step(noisy, denoised, level, following)
        length = level - call["previous"]
        corrected = begin + length * 0.5 * (slope + change)
        corrects = ops.cast(call["corrects"], "float32") > 0.5
        return (
            ops.where(corrects, corrected, predicted),
            ops.where(corrects, begin, noisy),
            ops.where(corrects, slope, change),
        )
