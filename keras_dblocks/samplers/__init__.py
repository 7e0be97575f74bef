"""Samplers: loops over noise levels that pick the block of each level."""

from keras_dblocks.samplers.euler import EulerSampler, euler_step, hand_over
from keras_dblocks.samplers.grid import Visit, noise_levels, plan

__all__ = [
    "EulerSampler",
    "Visit",
    "euler_step",
    "hand_over",
    "noise_levels",
    "plan",
]
