"""Samplers: loops over noise levels that pick the block of each level."""

from keras_dblocks.samplers.euler import EulerSampler
from keras_dblocks.samplers.grid import noise_levels
from keras_dblocks.samplers.hand_over import hand_over, pass_on
from keras_dblocks.samplers.heun import HeunSampler
from keras_dblocks.samplers.sampler import Sampler, Visit
from keras_dblocks.samplers.stochastic import StochasticSampler
from keras_dblocks.samplers.unmasking import UnmaskingSampler

CLASSES = (EulerSampler, HeunSampler, StochasticSampler, UnmaskingSampler)
SAMPLERS = {sampler.name: sampler for sampler in CLASSES}

__all__ = [
    "EulerSampler",
    "HeunSampler",
    "Sampler",
    "StochasticSampler",
    "UnmaskingSampler",
    "Visit",
    "get",
    "hand_over",
    "noise_levels",
    "pass_on",
]


def get(identifier, **kwargs):
    """Sampler from a `Sampler`, a name, or a config with a `name`.

    Args:
        identifier: `Sampler` (returned as it is), `"euler"`, `"heun"`,
            `"stochastic"`, `"unmasking"`, or a dict of arguments with `"name"`.
        kwargs: arguments, for a name.
    """
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, dict):
        kwargs = {**identifier, **kwargs}
        identifier = kwargs.pop("name", "euler")
    if not isinstance(identifier, str) or identifier not in SAMPLERS:
        raise ValueError(
            f"A sampler is a `Sampler` or one of {[*SAMPLERS]}. "
            f'Received: {identifier!r}. Use "euler".'
        )
    return SAMPLERS[identifier](**kwargs)
