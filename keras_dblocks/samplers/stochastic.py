"""EDM's stochastic sampler: Heun's method with fresh noise before each step."""

import math

import keras
from keras import ops

from keras_dblocks.samplers.heun import HeunSampler
from keras_dblocks.samplers.sampler import as_lists, random_state


class StochasticSampler(HeunSampler):
    """Heun's method with churn; see `Sampler` for the other arguments.

    Before a step from `s` the level is raised to `(1 + gamma) s` by fresh
    noise, `gamma = min(churn / num_steps, sqrt(2) - 1)`, never above the
    range the blocks were trained on.

    Args:
        churn: float, `S_churn` of EDM. 0 is Heun's method. Defaults to `40`.
        churn_range: pair of floats, `S_tmin` and `S_tmax`: levels at which
            noise is added. Defaults to EDM's `(0.05, 50)`.
        noise_scale: float, `S_noise` of EDM. Defaults to `1.003`.

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithm 2
    """

    name = "stochastic"

    def __init__(
        self,
        num_steps=None,
        grid="karras",
        start="noise",
        churn=40.0,
        churn_range=(0.05, 50.0),
        noise_scale=1.003,
        **kwargs,
    ):
        super().__init__(num_steps, grid, start, **kwargs)
        if not churn >= 0:
            raise ValueError(
                "`churn` must be at least 0. "
                f"Received: churn={churn}. EDM uses 30 to 80, 0 for none."
            )
        self.churn = churn
        self.churn_range = tuple(churn_range)
        self.noise_scale = noise_scale
        self._generator = keras.random.SeedGenerator(0)

    def schedule(self, levels):
        low, high = self.churn_range
        gamma = min(self.churn / (len(levels) - 1), math.sqrt(2) - 1)
        raised = [
            min(s * (1 + gamma), levels[0]) if low <= s <= high else s
            for s in levels
        ]
        rows = []
        for i, following in enumerate(levels[1:]):
            # The noise of the next step is added after the last call of this.
            spread = math.sqrt(max(raised[i + 1] ** 2 - following**2, 0.0))
            row = {"following": following, "previous": raised[i]}
            row = {**row, "level": raised[i], "corrects": 0.0, "spread": 0.0}
            rows.append(row)
            if following:
                spread *= self.noise_scale
                row = {**row, "level": following, "corrects": 1.0}
                rows.append({**row, "spread": spread})
        return as_lists(rows)

    def carry(self, noisy, stream=0):
        state = random_state(self.seed, stream, self._generator)
        return (*super().carry(noisy), state)

    def step(self, carry, denoised, call):
        *carry, seed = carry
        noisy, *rest = super().step(carry, denoised, call)
        # A generator's state cannot change inside a compiled loop, unless it
        # is carried along.
        state = self._generator.state
        with keras.StatelessScope(state_mapping=[(state, seed)]) as scope:
            eps = keras.random.normal(
                ops.shape(noisy), dtype="float32", seed=self._generator
            )
            seed = scope.get_current_value(state)
        return (noisy + call["spread"] * eps, *rest, seed)

    def get_config(self):
        names = ("churn", "churn_range", "noise_scale")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}
