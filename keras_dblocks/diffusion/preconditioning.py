"""EDM's preconditioning and loss weight (EDM, Table 1, last column)."""

import abc
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dblocks.contracts import Contract


class Coefficients(NamedTuple):
    """`D = c_skip z + c_out F(c_in z, c_noise)`, each of shape `(B,)`.

    None stands for a scale that is not applied.
    """

    c_skip: Any
    c_out: Any
    c_in: Any
    c_noise: Any


class Preconditioning(Contract):
    """Scales around the network, as functions of the noise level.

    Called by a block's `denoise`, in every call of a denoiser, compiled; a
    subclass keeps the constructor's arguments as attributes, returns them in
    `get_config` and is registered with
    `keras.saving.register_keras_serializable`.

    See docs/method.md#preconditioning.
    """

    @abc.abstractmethod
    def __call__(self, level):
        """Coefficients at some noise levels.

        Args:
            level: float32 tensor or numpy array `(B,)`.

        Returns:
            `Coefficients`, `c_noise` always a tensor `(B,)`.
        """

    def weight(self, level):
        """Weight `(B,)` of the loss at the levels, for `loss_weighting`."""
        return ops.ones_like(level)

    def get_config(self):
        """Arguments of the constructor, for saving."""
        return {}

    @classmethod
    def from_config(cls, config):
        """The scales of a `get_config`."""
        return cls(**config)


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

    def __init__(self, sigma_data=0.5):
        if not sigma_data > 0:
            raise ValueError(
                "`sigma_data` must be above 0. "
                f"Received: sigma_data={sigma_data}. The paper uses 0.5."
            )
        self.sigma_data = float(sigma_data)

    def __call__(self, sigma):
        """Coefficients at the levels `sigma` `(B,)`, numpy or tensor."""
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / variance,
            c_out=sigma * self.sigma_data / variance**0.5,
            c_in=1.0 / variance**0.5,
            c_noise=_log(sigma) / 4.0,
        )

    def weight(self, sigma):
        """EDM loss weight, `1 / c_out ** 2`."""
        variance = sigma**2 + self.sigma_data**2
        return variance / (sigma * self.sigma_data) ** 2

    def get_config(self):
        return {"sigma_data": self.sigma_data}


@keras.saving.register_keras_serializable(package="keras_dblocks")
class InputPreconditioning(EDMPreconditioning):
    """EDM's scale of the input alone; the network's output is the answer.

    For tables of targets: EDM's skip copies the noisy row to the answer at
    low noise, and leaves the network of a late block no say
    (docs/method.md#autoregression).
    """

    def __call__(self, sigma):
        """Coefficients at the levels `(B,)`; None stands for no scaling."""
        return super().__call__(sigma)._replace(c_skip=None, c_out=None)


@keras.saving.register_keras_serializable(package="keras_dblocks")
class NoPreconditioning(Preconditioning):
    """For masks: tokens go in and logits come out as they are.

    `c_noise` is 1000 times the mask ratio, what MD4 embeds.
    """

    def __call__(self, level):
        """Coefficients at the levels `(B,)`; None stands for no scaling."""
        return Coefficients(None, None, None, 1000.0 * level)


def _log(sigma):
    symbolic = isinstance(sigma, keras.KerasTensor)
    if symbolic or ops.is_tensor(sigma):
        return ops.log(sigma)
    return np.log(sigma)
