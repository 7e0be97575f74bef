"""Masked diffusion's sampler: masks are revealed step by step."""

import keras
import numpy as np
from keras import ops

from keras_dblocks.models.checks import check_integer, check_share
from keras_dblocks.noise import MaskingSchedule
from keras_dblocks.samplers.sampler import Sampler, random_state

ORDERS = ("random", "confidence")
HIDDEN = -1e9  # a logit that is never drawn


class UnmaskingSampler(Sampler):
    """Draws a token for every mask and reveals a share of them at each step.

    From time t to s a mask is revealed with probability
    `(alpha(s) - alpha(t)) / (1 - alpha(t))`; the last step reveals the rest.

    Args:
        num_steps: int. Defaults to one per block.
        grid: `"cosine"` (MD4's) or `"uniform"` in time.
        schedule: name, see `noise.MaskingSchedule`. Defaults to `"linear"`.
        order: `"random"` (ancestral sampling), or `"confidence"`: as many
            masks, those whose token was likeliest.
        temperature: float. 0 takes the likeliest token. Defaults to `1`.
        top_p: float. Tokens are drawn from the likeliest ones that have this
            share of the probability. Defaults to `1`, all.
        seed: int.
        masked: float. Share of masks in the start; less than 1 with a prompt.
            Mask ratios fall from there, so that a block sees as many masks as
            in training. Defaults to `1`.

    References:
     - [MD4](https://arxiv.org/abs/2406.04329), Section 4 and Appendix
     - [MaskGIT](https://arxiv.org/abs/2202.04200), confidence order
    """

    name = "unmasking"
    advice = "Take more steps."

    def __init__(
        self,
        num_steps=None,
        grid="cosine",
        schedule="linear",
        order="random",
        temperature=1.0,
        top_p=1.0,
        seed=0,
        masked=1.0,
    ):
        super().__init__(num_steps, seed=seed)
        check_integer("seed", seed, 0)
        check_share("masked", masked, "Without a prompt it is 1.")
        for argument, value, allowed in (
            ("grid", grid, ("cosine", "uniform")),
            ("order", order, ORDERS),
        ):
            if value not in allowed:
                raise ValueError(
                    f"`{argument}` must be one of {allowed}. "
                    f"Received: {argument}={value!r}. Use {allowed[0]!r}."
                )
        check_drawing(temperature, top_p)
        self.grid = grid
        self.schedule_name = schedule
        self.order = order
        self.temperature = temperature
        self.top_p = top_p
        self.masked = masked
        self.alphas = MaskingSchedule(schedule)
        self._generator = keras.random.SeedGenerator(0)

    def times(self, num_steps):
        """Descending times `(num_steps + 1,)`, from 1 to 0."""
        share = np.linspace(0.0, 1.0, num_steps + 1)
        if self.grid == "cosine":
            return np.cos(np.pi / 2 * share).clip(0.0, 1.0)
        return 1.0 - share

    def levels_of(self, partition, steps):
        check_integer("num_steps", steps)
        level = 1.0 - self.alphas.alpha(self.times(steps)[:-1])
        return np.maximum(self.masked * level, partition.noise.minimum)

    @property
    def spares_blocks(self):
        """True with a prompt: the first blocks have nothing to do."""
        return self.masked < 1

    def compiled_settings(self):
        return (self.order, self.temperature, self.top_p)

    def schedule(self, levels):
        times = self.times(len(levels) - 1)
        alpha = self.alphas.alpha(times)
        reveal = np.diff(alpha) / (1.0 - alpha[:-1])
        reveal[-1] = 1.0  # what epsilon would leave
        return {"level": levels[:-1], "reveal": reveal.tolist()}

    def carry(self, noisy, stream=0):
        state = random_state(self.seed, stream, self._generator)
        return (ops.cast(noisy, "int32"), state)

    def step(self, carry, denoised, call):
        tokens, seed = carry
        state = self._generator.state
        with keras.StatelessScope(state_mapping=[(state, seed)]) as scope:
            drawn, confidence = self._draw(denoised)
            uniform = keras.random.uniform(
                ops.shape(tokens), dtype="float32", seed=self._generator
            )
            seed = scope.get_current_value(state)
        # Masks are the one token beyond the logits.
        masked = tokens == denoised.shape[-1]
        chosen = uniform < call["reveal"]
        if self.order == "confidence":
            score = ops.where(masked, confidence, HIDDEN)
            rank = ops.argsort(ops.argsort(-score, axis=-1), axis=-1)
            left = ops.sum(ops.cast(masked, "float32"), -1, keepdims=True)
            count = ops.ceil(call["reveal"] * left - 1e-4)
            chosen = ops.cast(rank, "float32") < count
        revealed = ops.logical_and(masked, chosen)
        return (ops.where(revealed, drawn, tokens), seed)

    def _draw(self, logits):
        """A token for every place, and its log-probability."""
        log_probability = ops.log_softmax(logits, axis=-1)
        if self.temperature == 0:
            drawn = ops.cast(ops.argmax(logits, axis=-1), "int32")
        else:
            scaled = logits / self.temperature
            if self.top_p < 1:
                scaled = nucleus(scaled, self.top_p)
            uniform = keras.random.uniform(
                ops.shape(scaled),
                minval=1e-20,
                dtype="float32",
                seed=self._generator,
            )
            gumbel = -ops.log(-ops.log(uniform))
            drawn = ops.cast(ops.argmax(scaled + gumbel, axis=-1), "int32")
        place = ops.expand_dims(drawn, -1)
        confidence = ops.take_along_axis(log_probability, place, axis=-1)
        return drawn, ops.squeeze(confidence, -1)

    def outcome(self, carry, prediction):
        """The tokens so far."""
        return carry[0]

    def blank(self, block, carry):
        return carry[0]

    def get_config(self):
        names = ("num_steps", "grid", "order", "temperature", "top_p", "seed")
        config = {name: getattr(self, name) for name in (*names, "masked")}
        return {"name": self.name, "schedule": self.schedule_name, **config}


def check_drawing(temperature, top_p):
    """Refuses what tokens cannot be drawn with."""
    if not temperature >= 0 or not 0 < top_p <= 1:
        raise ValueError(
            "`temperature` must be at least 0 and `top_p` in (0, 1]. "
            f"Received: temperature={temperature}, top_p={top_p}. Use 1."
        )


def nucleus(logits, top_p):
    """Hides the unlikeliest tokens beyond a share `top_p` of the probability.

    The likeliest token is never hidden.
    """
    descending = -ops.sort(-logits, axis=-1)
    share = ops.cumsum(ops.softmax(descending, axis=-1), axis=-1)
    before = share - ops.softmax(descending, axis=-1)
    kept = ops.where(before < top_p, descending, -HIDDEN)
    least = ops.min(kept, axis=-1, keepdims=True)
    return ops.where(logits < least, HIDDEN, logits)
