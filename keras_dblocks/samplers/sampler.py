"""What all samplers share: the loop over noise levels, through the blocks."""

import itertools
import warnings
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_dblocks.samplers.grid import noise_levels


class Visit(NamedTuple):
    """Consecutive calls of one block's denoiser."""

    block: int
    calls: dict  # name to a tuple of floats, one for each call; has "level"

    def split(self):
        """A visit for each call."""
        rows = zip(*self.calls.values(), strict=True)
        rows = [dict(zip(self.calls, row, strict=True)) for row in rows]
        return [
            Visit(self.block, {k: (v,) for k, v in row.items()}) for row in rows
        ]


class Sampler:
    """Runs the blocks in order of falling noise.

    A subclass says which calls of the denoiser a grid takes (`schedule`) and
    what becomes of the state after each (`step`).

    Args:
        num_steps: int, steps of the grid. Defaults to one per block.
        grid: `"upper_edges"`, `"equal_mass"` or `"karras"`; see
            `keras_dblocks.samplers.noise_levels`.
        start: `"zero"` (the mean of the start distribution; for tasks with
            one right answer) or `"noise"` (generation, and the reference).
        guidance_scale: float or None. Classifier-free guidance: prediction
            without condition plus this times the difference.
        rho: float. Exponent of the Karras grid. Defaults to `7`.
        seed: int. For `start="noise"`.

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithms 1 and 2
     - [Classifier-free guidance](https://arxiv.org/abs/2207.12598)
    """

    def __init__(
        self,
        num_steps=None,
        grid="upper_edges",
        start="zero",
        guidance_scale=None,
        rho=7.0,
        seed=0,
    ):
        if start not in ("zero", "noise"):
            raise ValueError(
                '`start` must be "zero" or "noise". '
                f'Received: start={start!r}. Use "zero" for classification.'
            )
        self.num_steps = num_steps
        self.grid = grid
        self.start = start
        self.guidance_scale = guidance_scale
        self.rho = rho
        self.seed = seed

    # What to do about blocks that are never called, and if it is a mistake.
    advice = 'Take more steps, or grid="upper_edges".'
    spares_blocks = False

    def compiled_settings(self):
        """What `step` and `predict` depend on; grid and seed are not."""
        return (self.guidance_scale,)

    def schedule(self, levels):
        """Calls of the denoiser for descending `levels` that end with 0.

        Returns:
            Dict of equally long lists of floats, one entry per call:
            `"level"`, and what else `step` reads.
        """
        raise NotImplementedError

    def carry(self, noisy, stream=0):
        """State of the loop: a tuple that begins with the noisy signal.

        Args:
            noisy: tensor `(B, ...)`.
            stream: int. Batches of different numbers draw different noise.
        """
        return (noisy,)

    def step(self, carry, denoised, call):
        """State after a call of the denoiser.

        Args:
            carry: tuple of tensors, see `carry`. The denoiser saw the first.
            denoised: tensor `(B, ...)`, its estimate of the clean signal.
            call: dict of float scalars, one entry of the schedule.
        """
        raise NotImplementedError

    def levels_of(self, partition, steps):
        """Descending noise levels of `steps` steps."""
        return noise_levels(partition, steps, self.grid, self.rho)

    def plan(self, partition):
        """The visits to blocks this sampler makes, a list of `Visit`.

        Warns when a block would not be called.
        """
        steps = self.num_steps
        if steps is None:
            steps = partition.num_blocks
        levels = self.levels_of(partition, steps)
        calls = self.schedule([*map(float, levels), 0.0])
        blocks = [int(b) for b in partition.block_of(calls["level"])]
        missing = sorted({*range(partition.num_blocks)} - {*blocks})
        if missing and not self.spares_blocks:
            warnings.warn(
                f"num_steps={steps} with grid={self.grid!r} never calls blocks "
                f"{missing}. {self.advice}",
                stacklevel=2,
            )
        visits, first = [], 0
        for block, run in itertools.groupby(blocks):
            last = first + len(list(run))
            part = {k: tuple(v[first:last]) for k, v in calls.items()}
            visits.append(Visit(block, part))
            first = last
        return visits

    def begin(self, model, batch_size, seed=None):
        """Start `(batch_size, ...)`, zeros or noise."""
        shape = (batch_size, *model.blocks[0].target.signal_shape)
        if self.start == "zero":
            return model.noise.start(shape)
        return model.noise.start(shape, self.seed if seed is None else seed)

    def __call__(self, model, condition, noisy=None):
        """Last prediction of the chain.

        Args:
            model: `DiffusionBlocks`.
            condition: tensor(s) `(B, ...)`.
            noisy: start `(B, ...)`; made by `begin` when None.
        """
        carry = self._carry(model, condition, noisy)
        for block, calls in self.plan(model.partition):
            carry, prediction = self.run(
                model.blocks[block], calls, carry, condition
            )
        return prediction

    def trajectory(self, model, condition, noisy=None):
        """Every call of the chain, not compiled.

        Returns:
            List of dicts: the call's entries of the schedule, `block`,
            `noisy` (what the block was called with), `prediction` and
            `denoised`.
        """
        carry = self._carry(model, condition, noisy)
        steps = []
        visits = self.plan(model.partition)
        for index, calls in [one for v in visits for one in v.split()]:
            call = {name: value for name, (value,) in calls.items()}
            step = {**call, "block": index, "noisy": carry[0]}
            carry, step["prediction"], step["denoised"] = self._call(
                model.blocks[index], carry, call, condition
            )
            steps.append(step)
        return steps

    def run(self, block, calls, carry, condition):
        """Consecutive calls of one block, compiled as one loop.

        Args:
            block: `Block`.
            calls: dict of float arrays `(num_calls,)`, part of a schedule.
            carry: tuple of tensors, see `carry`.
            condition: tensor(s) `(B, ...)`.

        Returns:
            The state after them, and the last prediction.
        """
        calls = {
            name: ops.convert_to_tensor(values, dtype="float32")
            for name, values in calls.items()
        }

        def body(i, state):
            call = {name: values[i] for name, values in calls.items()}
            carry, *result = self._call(block, state[0], call, condition)
            return carry, self.outcome(carry, result[0])

        count = ops.shape(calls["level"])[0]  # TensorFlow may not know it yet
        if isinstance(count, int) and count == 1:
            return body(0, (carry,))
        return ops.fori_loop(0, count, body, (carry, self.blank(block, carry)))

    def outcome(self, carry, prediction):
        """What `__call__` returns of a call; its last prediction."""
        return prediction

    def blank(self, block, carry):
        """An `outcome` of no call, to begin a loop with."""
        return ops.zeros((ops.shape(carry[0])[0], *block.prediction_shape))

    def _carry(self, model, condition, noisy):
        if not model.built:
            model.build()
        if noisy is None:
            noisy = self.begin(model, model.batch_size_of(condition))
        return self.carry(noisy)

    def _call(self, block, carry, call, condition):
        prediction = self.predict(block, carry[0], call["level"], condition)
        denoised = block.target.bridge(prediction)
        return self.step(carry, denoised, call), prediction, denoised

    def predict(self, block, noisy, level, condition):
        """The block's prediction at one level, guided if so configured."""
        batch = ops.shape(noisy)[0]
        level = ops.cast(level, "float32") * ops.ones((batch,))
        prediction = block.denoise(noisy, level, condition)
        if self.guidance_scale is None:
            return prediction
        empty = block.network().null_condition(condition)
        without = block.denoise(noisy, level, empty)
        return without + self.guidance_scale * (prediction - without)

    def get_config(self):
        names = ("num_steps", "grid", "start", "guidance_scale", "rho", "seed")
        config = {name: getattr(self, name) for name in names}
        return {"name": self.name, **config}


def as_lists(rows):
    """Equally keyed dicts, one per call, to a dict of lists."""
    return {k: [float(row[k]) for row in rows] for k in rows[0]}


def random_state(seed, stream, generator):
    """State for a `keras.random.SeedGenerator`, of a seed and a stream.

    Hashed: on torch Keras 3.15 adds seed and counter, so that a seed would
    draw what the next one draws a call later.
    """
    words = np.random.SeedSequence([seed, stream]).generate_state(1)
    state = np.array([words[0] >> 1, 0])
    return ops.convert_to_tensor(state, dtype=generator.state.dtype)
