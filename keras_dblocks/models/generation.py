"""Draws data from noise, with or without a condition."""

from typing import Any

import numpy as np
from keras import ops, tree

from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion import samplers
from keras_dblocks.diffusion.label_embedding import LabelEmbedding
from keras_dblocks.diffusion.samplers import generation, loop


class Generates:
    """`generate` of a `DiffusionBlocks` whose clean signal has Gaussian noise.

    A mix-in. Networks on tokens have a `generate` of their own.
    """

    def generate(
        self,
        condition: Any = None,
        num_samples: int | None = None,
        num_steps: int = 50,
        guidance_scale: float | None = None,
        sampler: samplers.Sampler | str = "euler",
        grid: str | None = None,
        seed: int = 0,
        batch_size: int = 128,
        return_trajectory: bool = False,
        verbose: int = 0,
    ) -> Any:
        """Samples of the clean signal, each from noise of its own.

        Args:
            condition: array(s) `(N, ...)` as in `condition_spec()`, one row
                for each sample. None if the network has no condition.
            num_samples: int. Number of samples if there is no condition.
            num_steps: int. Steps of the grid. Defaults to `50`.
            guidance_scale: float or None. Strength of classifier-free
                guidance, for a network that was trained with
                `null_condition` for a part of the rows. None and 1 mean none.
            sampler: `"euler"`, `"heun"` or `"stochastic"` (the last two with
                twice the calls), or a `samplers.Sampler`, whose own settings
                are then used.
            grid: see `samplers.noise_levels`. None takes EDM's grid, or the
                upper edges if EDM's skips a block; with `reference=True` it
                takes equal mass.
            seed: int. Seed of all noise, the same on every backend and at
                any `batch_size`.
            batch_size: int. Samples made at once. Defaults to `128`.
            return_trajectory: bool. True also returns intermediate states.
            verbose: 1 for a progress bar.

        Returns:
            float32 numpy array `(N, *signal_shape)` in the units of the data;
            with `return_trajectory` also a list with a dict for each call of
            the denoiser: `level`, `block`, `noisy` and `denoised`.

        Raises:
            ValueError: if condition or number of samples do not fit the
                network, or it does not generate.

        References:
         - [EDM](https://arxiv.org/abs/2206.00364), Algorithms 1 and 2
        """
        if not self.built:
            self.build()
        sampler = self.sampler_of(
            sampler, num_steps, guidance_scale, grid, seed
        )
        count = self._check_generate(
            condition, num_samples, sampler, batch_size
        )
        visits = loop.plan(sampler, self.partition, self.may_skip)
        trajectory = None
        if return_trajectory:
            visits = [v for visit in visits for v in visit.split()]
            trajectory = generation.Trajectory()
        if condition is not None:
            condition = self._as_condition(condition)
        parts = generation.batches(count, batch_size, condition)
        batches = generation.generate(
            self._stages,
            visits,
            sampler,
            parts,
            self._starts(sampler),
            generation.progress_bar(parts, visits, verbose),
            trajectory,
        )
        samples = self.target.restore(np.concatenate(list(batches)))
        if trajectory is not None:
            return samples, trajectory.steps(len(visits))
        return samples

    def sampler_of(
        self,
        sampler: samplers.Sampler | str,
        num_steps: int,
        guidance_scale: float | None = None,
        grid: str | None = None,
        seed: int = 0,
    ) -> samplers.Sampler:
        """`samplers.Sampler` for the keywords of `generate`."""
        if not isinstance(sampler, str):
            return samplers.get(sampler)
        options = {"num_steps": num_steps, "start": "noise", "seed": seed}
        if guidance_scale != 1:
            options["guidance_scale"] = guidance_scale
        if grid is None:
            grid = "equal_mass" if self.reference else "karras"
            levels = samplers.noise_levels(self.partition, num_steps, grid)
            visited = {*self.partition.block_of(levels).tolist()}
            if len(visited) < self.num_blocks <= num_steps:
                grid = "upper_edges"  # EDM's few steps would skip a block
        return samplers.get(sampler, grid=grid, **options)

    def _check_generate(self, condition, num_samples, sampler, batch_size):
        """Number of samples, once the arguments of `generate` are checked."""
        check_integer("batch_size", batch_size)
        target = self.target
        if isinstance(target, LabelEmbedding) or self.noise.dtype != "float32":
            raise ValueError(
                "`generate` draws arrays from Gaussian noise. Received: a "
                f"network whose target is a {type(target).__name__}. "
                "Call `predict`."
            )
        if self.condition_spec() is None:
            if condition is not None or num_samples is None:
                raise ValueError(
                    "The network has no condition, so the number of samples "
                    f"is needed. Received: num_samples={num_samples}. "
                    "Call `generate(num_samples=16)`."
                )
            check_integer("num_samples", num_samples)
            return num_samples
        if condition is None or num_samples is not None:
            raise ValueError(
                "There is one sample for each row of the condition. Received: "
                f"num_samples={num_samples} and a condition of type "
                f"{type(condition).__name__}. Call `generate(condition)`."
            )
        self.check_data(condition)
        count = len(tree.flatten(condition)[0])
        check_integer("the number of conditions", count)
        return count

    def _as_condition(self, x):
        """The condition that blocks see for an input, as numpy array(s)."""
        return tree.map_structure(ops.convert_to_numpy, self.condition_of(x))

    def _starts(self, sampler):
        """Function from a `generation.Batch` to its rows' start noise."""
        start = generation.Start(self.noise, self.target.signal_shape)
        return lambda batch: start.rows(sampler, batch.rows)
