"""Samplers, which run the blocks from the start noise to the answer."""

from typing import Any

import keras

from keras_dblocks.diffusion.samplers.euler import EulerSampler, euler_step
from keras_dblocks.diffusion.samplers.grid import noise_levels
from keras_dblocks.diffusion.samplers.heun import HeunSampler
from keras_dblocks.diffusion.samplers.loop import Visit, plan
from keras_dblocks.diffusion.samplers.sampler import (
    Draws,
    GaussianSampler,
    Sampler,
    serialize,
)
from keras_dblocks.diffusion.samplers.stochastic import StochasticSampler
from keras_dblocks.diffusion.samplers.unmasking import UnmaskingSampler

BY_NAME = {
    "euler": EulerSampler,
    "heun": HeunSampler,
    "stochastic": StochasticSampler,
    "unmasking": UnmaskingSampler,
}

__all__ = [
    "Draws",
    "EulerSampler",
    "GaussianSampler",
    "HeunSampler",
    "Sampler",
    "StochasticSampler",
    "UnmaskingSampler",
    "Visit",
    "euler_step",
    "get",
    "noise_levels",
    "plan",
    "serialize",
]


def get(identifier: Sampler | str | dict[str, Any], **kwargs: Any) -> Sampler:
    """Returns the sampler for a `Sampler`, a name, or a dict.

    Args:
        identifier: `Sampler` (returned as it is), `"euler"`, `"heun"`,
            `"stochastic"`, `"unmasking"`, a dict of arguments with `"name"`,
            or a config of `serialize`.
        kwargs: constructor arguments, used with a name.

    Example:

    ```python
    samplers.get("euler", num_steps=4)
    samplers.get({"name": "heun", "num_steps": 4})
    ```
    """
    if isinstance(identifier, dict) and "class_name" in identifier:
        identifier = keras.saving.deserialize_keras_object(identifier)
    elif isinstance(identifier, dict):
        kwargs = {**identifier, **kwargs}
        identifier = kwargs.pop("name", "euler")
    if isinstance(identifier, Sampler):
        return identifier
    if not isinstance(identifier, str) or identifier not in BY_NAME:
        raise ValueError(
            f"A sampler is a `Sampler` or one of {[*BY_NAME]}. "
            f'Received: {identifier!r}. Use "euler".'
        )
    return BY_NAME[identifier](**kwargs)
