"""Samplers: loops over noise levels that pick the block of each level."""

from keras_dblocks.samplers.euler import EulerSampler
from keras_dblocks.samplers.grid import noise_levels
from keras_dblocks.samplers.hand_over import hand_over
from keras_dblocks.samplers.heun import HeunSampler
from keras_dblocks.samplers.sampler import Sampler, Visit
from keras_dblocks.samplers.stochastic import StochasticSampler

SAMPLERS = {s.name: s for s in (EulerSampler, HeunSampler, StochasticSampler)}

__all__ = [
    "EulerSampler",
    "HeunSampler",
    "Sampler",
    "StochasticSampler",
    "Visit",
    "get",
    "hand_over",
    "noise_levels",
]


def get(identifier, **kwargs):
    """Sampler from a `Sampler`, a name, or a config with a `name`.

    Args:
        identifier: `Sampler` (returned as it is), `"euler"`, `"heun"`,
            `"stochastic"`, or a dict of arguments, `"name"` among them.
        kwargs: arguments, for a name.
    """
    if isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, dict):
        kwargs = {**identifier, **kwargs}
        identifier = kwargs.pop("name", "euler")
    if identifier not in SAMPLERS:
        raise ValueError(
            f"A sampler is a `Sampler` or one of {[*SAMPLERS]}. "
            f'Received: {identifier!r}. Use "euler".'
        )
    return SAMPLERS[identifier](**kwargs)
