"""EDM's preconditioning and loss weight (EDM, Table 1, last column)."""

import abc
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dblocks.configuration import Configured
from keras_dblocks.contracts import Contract


class Coefficients(NamedTuple):
    """`D = c_skip z + c_out F(c_in z, c_noise)`, each of shape `(B,)`.

    None stands for a scale that is not applied.
    """

    c_skip: Any
    c_out: Any
    c_in: Any
    c_noise: Any


class Preconditioning(Configured, Contract):
    """Scales around the network, as functions of the noise level.

    A block's `denoise` calls it in every call of the denoiser, inside a
    compiled function. A subclass keeps the constructor's arguments as
    attributes, from which `get_config` is made, and is registered with
    `keras.saving.register_keras_serializable`.

    See docs/method.md#preconditioning.

    Example:

    ```python
    from keras_dblocks.diffusion import preconditioning

    @keras.saving.register_keras_serializable(package="mine")
    class OnlyLogarithm(Preconditioning):
        def __call__(self, level):
            c_noise = ops.log(level) / 4.0
            return preconditioning.Coefficients(None, None, None, c_noise)
    ```
    """

    @abc.abstractmethod
    def __call__(self, level: Any) -> Coefficients:
        """Coefficients at the given noise levels.

        Args:
            level: float32 tensor or numpy array `(B,)`.

        Returns:
            `Coefficients`, of which `c_noise` is never None.
        """

    def weight(self, level: Any) -> Any:
        """Weight `(B,)` of the loss at each level, for `loss_weighting`."""
        return ops.ones_like(level)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class EDMPreconditioning(Preconditioning):
    """Scales that keep the network's input and target at unit variance.

    Args:
        sigma_data: float. Standard deviation of the clean signal. The paper
            uses `0.5` for all experiments, which is the default.

    Raises:
        ValueError: if `sigma_data` is not above 0.

    Example:

    ```python
    EDMPreconditioning()(np.array([0.5])).c_skip      # array([0.5])
    ```

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Table 1
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ValueError(
                "`sigma_data` must be above 0. "
                f"Received: sigma_data={sigma_data}. The paper uses 0.5."
            )
        self.sigma_data = float(sigma_data)

    def __call__(self, sigma: Any) -> Coefficients:
        """Coefficients at the levels `sigma` `(B,)`, numpy or tensor."""
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / variance,
            c_out=sigma * self.sigma_data / variance**0.5,
            c_in=1.0 / variance**0.5,
            c_noise=_log(sigma) / 4.0,
        )

    def weight(self, sigma: Any) -> Any:
        """EDM loss weight, `1 / c_out ** 2`."""
        variance = sigma**2 + self.sigma_data**2
        return variance / (sigma * self.sigma_data) ** 2


@keras.saving.register_keras_serializable(package="keras_dblocks")
class InputPreconditioning(EDMPreconditioning):
    """Scales the input as EDM does and takes the network's output as it is.

    It is meant for tables of targets. There EDM's skip copies the noisy row
    to the answer at low noise, so that the network of a late block has hardly
    any influence (docs/method.md#preconditioning).

    Example:

    ```python
    InputPreconditioning()(np.array([0.5])).c_skip  # None
    ```
    """

    def __call__(self, sigma: Any) -> Coefficients:
        """Coefficients at the levels `(B,)`, where None means no scaling."""
        return super().__call__(sigma)._replace(c_skip=None, c_out=None)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class NoPreconditioning(Preconditioning):
    """Leaves input and output as they are, for masked tokens.

    `c_noise` is 1000 times the mask ratio. MD4 embeds 1000 times the time,
    which is the same for its linear schedule up to epsilon.

    Example:

    ```python
    NoPreconditioning()(np.array([0.5])).c_noise  # array([500.])
    ```
    """

    def __call__(self, level: Any) -> Coefficients:
        """Coefficients at the levels `(B,)`, where None means no scaling."""
        return Coefficients(None, None, None, 1000.0 * level)


def _log(sigma):
    symbolic = isinstance(sigma, keras.KerasTensor)
    if symbolic or ops.is_tensor(sigma):
        return ops.log(sigma)
    return np.log(sigma)
