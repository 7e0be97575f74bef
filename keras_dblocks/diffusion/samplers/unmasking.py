"""Sampler of masked diffusion, which reveals masks step by step."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks.checks import check_integer, check_share
from keras_dblocks.diffusion.masking import MaskingSchedule
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.samplers.sampler import Draws, Sampler
from keras_dblocks.diffusion.samplers.tokens import (
    HIDDEN,
    check_drawing,
    draw,
    nucleus,
)

GRIDS = ("cosine", "uniform")
ORDERS = ("random", "confidence")


@keras.saving.register_keras_serializable(package="keras_dblocks")
@dataclasses.dataclass(frozen=True)
class UnmaskingSampler(Sampler):
    """Draws a token for every mask and reveals a share of them at each step.

    In a step from time t to s, each mask is revealed with probability
    `(alpha(s) - alpha(t)) / (1 - alpha(t))`. The last step reveals the rest.

    Args:
        num_steps: int. Defaults to one per block.
        grid: `"cosine"` (MD4's) or `"uniform"` in time.
        schedule: name, see `MaskingSchedule`. Defaults to `"linear"`.
        order: `"random"` (ancestral sampling), or `"confidence"`, which
            reveals the expected number of masks, those whose drawn tokens
            are likeliest first.
        temperature: float. 0 takes the likeliest token. Defaults to `1`.
        top_p: float. Tokens are drawn from the likeliest ones that hold this
            share of the probability. Defaults to `1`, for all tokens.
        masked: float. Share of masks at the start, which is below 1 with a
            prompt. Mask ratios fall from there, so that a block sees as many
            masks as in training. Defaults to `1`.
        mask_token: int. The token that stands for a mask; it must be given.
        seed: int. All draws follow from it.

    Example:

    ```python
    sampler = UnmaskingSampler(64, order="confidence", mask_token=27)
    ```

    References:
     - [MD4](https://arxiv.org/abs/2406.04329), Section 4 and Appendix
     - [MaskGIT](https://arxiv.org/abs/2202.04200), confidence order
    """

    grid: str = "cosine"
    schedule: str = "linear"
    order: str = "random"
    temperature: float = 1.0
    top_p: float = 1.0
    masked: float = 1.0
    mask_token: int | None = dataclasses.field(default=None, kw_only=True)

    planned_fields = (*Sampler.planned_fields, "grid", "schedule", "masked")

    def __post_init__(self):
        super().__post_init__()
        check_share("masked", self.masked, "Without a prompt it is 1.")
        check_integer("mask_token", self.mask_token, 0)
        for argument, allowed in (("grid", GRIDS), ("order", ORDERS)):
            value = getattr(self, argument)
            if value not in allowed:
                raise ValueError(
                    f"`{argument}` must be one of {allowed}. "
                    f"Received: {argument}={value!r}. Use {allowed[0]!r}."
                )
        check_drawing(self.temperature, self.top_p)
        MaskingSchedule(self.schedule)  # refuses an unknown name

    @property
    def skips_blocks(self) -> bool:  # type: ignore[override]
        """True with a prompt, which may leave the first blocks no work."""
        return self.masked < 1

    def times(self, num_steps: int) -> np.ndarray:
        """Descending times `(num_steps + 1,)`, from 1 to 0."""
        share = np.linspace(0.0, 1.0, num_steps + 1)
        if self.grid == "cosine":
            return np.cos(np.pi / 2 * share).clip(0.0, 1.0)
        return 1.0 - share

    def levels(self, partition: Partition) -> np.ndarray:
        times = self.times(self.num_steps or partition.num_blocks)[:-1]
        level = 1.0 - MaskingSchedule(self.schedule).alpha(times)
        return np.maximum(self.masked * level, partition.noise.minimum)

    def calls(self, levels: list[float]) -> dict[str, list[float]]:
        times = self.times(len(levels) - 1)
        alpha = MaskingSchedule(self.schedule).alpha(times)
        reveal = np.diff(alpha) / (1.0 - alpha[:-1])
        reveal[-1] = 1.0  # also the masks that epsilon would leave
        return {"level": levels[:-1], "reveal": reveal.tolist()}

    def initial(self, noisy: Any) -> tuple:
        return (ops.cast(noisy, "int32"),)

    def step(
        self, state: tuple, denoised: Any, call: dict[str, Any], draws: Draws
    ) -> tuple:
        (tokens,) = state  # (B, T)
        uniform = draws.uniform((tokens.shape[1], 2))
        drawn, confidence = self._draw(denoised, uniform[..., 0])
        masked = tokens == self.mask_token
        chosen = uniform[..., 1] < call["reveal"]
        if self.order == "confidence":
            score = ops.where(masked, confidence, HIDDEN)
            rank = ops.argsort(ops.argsort(-score, axis=-1), axis=-1)
            left = ops.sum(ops.cast(masked, "float32"), -1, keepdims=True)
            count = ops.ceil(call["reveal"] * left - 1e-4)
            chosen = ops.cast(rank, "float32") < count
        revealed = ops.logical_and(masked, chosen)
        return (ops.where(revealed, drawn, tokens),)

    def _draw(self, logits, uniform):
        """Draws a token for every slot; returns it and its log-probability."""
        log_probability = ops.log_softmax(logits, axis=-1)
        if self.temperature == 0:
            drawn = ops.cast(ops.argmax(logits, axis=-1), "int32")
        else:
            scaled = logits / self.temperature
            if self.top_p < 1:
                scaled = nucleus(scaled, self.top_p)
            drawn = draw(scaled, uniform)
        place = ops.expand_dims(drawn, -1)
        confidence = ops.take_along_axis(log_probability, place, axis=-1)
        return drawn, ops.squeeze(confidence, -1)

    def result(self, state: tuple, prediction: Any) -> Any:
        """Returns the tokens revealed so far."""
        return state[0]

    def no_result(self, state: tuple, prediction_shape: tuple[int, ...]) -> Any:
        return state[0]
