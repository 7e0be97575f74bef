"""Samples in batches, one compiled call per visit to a block."""

import keras
import numpy as np
from keras import ops, tree

from keras_dblocks import streams
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.layers.moving_average import averaged


class Start(keras.Model):
    """Draws the start noise of rows; compiled by `predict_on_batch`.

    Args:
        noise: `Noise`.
        shape: tuple. Shape of one clean signal.
    """

    def __init__(self, noise, shape):
        super().__init__(name="start")
        self.noise = noise
        self.shape = tuple(shape)
        self.built = True

    def call(self, inputs):
        rows, key = inputs
        stream = streams.Stream.of_key(key)
        return self.noise.start(rows, self.shape, stream)

    def rows(self, sampler, rows):
        """Start noise, numpy `(B, *shape)`, of the int32 `rows` `(B,)`."""
        key = loop.stream_of(sampler, "start").key
        return self.predict_on_batch((rows, key))


class Stage(keras.Model):
    """Runs one visit to a block; compiled by `predict_on_batch`.

    Args:
        blocks: list of `Block`, see `loop.running`. Their moving averages are
            used if they have them.
        sampler: `Sampler`. The stream's key is an argument of the compiled
            call, so that another seed compiles nothing anew.
    """

    def __init__(self, blocks, sampler):
        super().__init__(name="stage")
        self.blocks = blocks
        self.sampler = sampler
        self.built = True

    def call(self, inputs):
        state, calls, rows, key, *condition = inputs
        condition = condition[0] if condition else None
        stream = streams.Stream.of_key(key)
        with averaged(self.blocks):
            return loop.run(
                self.blocks, self.sampler, calls, state, condition, rows, stream
            )

    def begin(self, noisy):
        """The chain's first state, as numpy arrays; see `loop.begin`."""
        noisy = ops.convert_to_tensor(noisy)
        state = loop.begin(self.blocks[-1], self.sampler, noisy)
        return tree.map_structure(ops.convert_to_numpy, state)

    def advance(self, state, calls, batch, seed_of):
        """State and result after the calls, as numpy arrays.

        Args:
            state: pair as in `loop.run`, of numpy arrays.
            calls: dict of tuples of floats, those of a `Visit`.
            batch: `Batch`.
            seed_of: `Sampler` whose seed the random draws follow from.
        """
        calls = {k: np.array(v, "float32") for k, v in calls.items()}
        key = loop.stream_of(seed_of, "step").key
        inputs = (state, calls, batch.rows, key)
        if batch.condition is not None:
            inputs = (*inputs, batch.condition)
        return self.predict_on_batch(inputs)


class Stages:
    """Keeps the stages of a model, so that each is compiled only once.

    Args:
        blocks: function of no arguments that returns the list of blocks.
    """

    def __init__(self, blocks):
        self.blocks = blocks
        self.made = {}

    def __call__(self, index, sampler, num_calls, batch_size):
        """`Stage` of a block, one for each program that must be compiled."""
        # Each shape has a stage of its own: TensorFlow would compile a second
        # shape of the same function for any shape, which rounds differently.
        key = (index, sampler.compiled_part(), num_calls, batch_size)
        if key not in self.made:
            run = loop.running(self.blocks(), index)
            self.made[key] = Stage(run, sampler)
        return self.made[key]


class Batch:
    """Rows that are sampled together, the last of which may be padding.

    Attributes:
        rows: int32 numpy `(B,)`, the rows' numbers in the whole call.
        condition: numpy array(s) `(B, ...)`, or None.
        count: int. Number of rows that are no padding; they come first.
    """

    def __init__(self, first, size, total, condition):
        # All batches have one shape, so that each block is compiled once.
        self.rows = np.arange(first, first + size, dtype="int32")
        self.count = min(size, total - first)
        self.condition = condition
        if condition is not None:
            chosen = np.minimum(self.rows, total - 1)
            self.condition = tree.map_structure(lambda a: a[chosen], condition)


def batches(total, batch_size, condition=None):
    """List of `Batch` for `total` rows; `condition` numpy `(total, ...)`."""
    size = min(total, batch_size)
    return [
        Batch(first, size, total, condition) for first in range(0, total, size)
    ]


def generate(stages, visits, sampler, parts, starts, progress, keep=None):
    """Runs all visits for one batch after the other.

    Args:
        stages: `Stages`.
        visits: list of `Visit`.
        sampler: `Sampler`.
        parts: list of `Batch`.
        starts: function from a `Batch` to the noisy signals, numpy, that its
            chains start from.
        progress: function called after each visit with its number of calls.
        keep: function called with `(visit, noisy, result)` after each visit,
            or None; `noisy` is what the visit began with.

    Yields:
        The numpy result `(count, ...)` of each batch.
    """
    for batch in parts:
        for visit in visits:
            stage = stages(
                visit.block, sampler, visit.num_calls, len(batch.rows)
            )
            if visit is visits[0]:
                state = stage.begin(starts(batch))
            before = state[0][0]
            state, result = stage.advance(state, visit.calls, batch, sampler)
            if keep is not None:
                keep(visit, before[: batch.count], result[: batch.count])
            progress(visit.num_calls)
        yield result[: batch.count]


def stream(load, visits, sampler, parts, starts, progress):
    """`generate` that holds one block at a time and runs all batches on it.

    Args:
        load: function from a block's index to the `Block`.
        visits, sampler, parts, starts, progress: as in `generate`.

    Returns:
        List of results, one per batch.
    """
    for visit in visits:
        stage = Stage([load(visit.block)], sampler)
        if visit is visits[0]:
            states = [stage.begin(starts(batch)) for batch in parts]
        results = []
        for i, batch in enumerate(parts):
            states[i], result = stage.advance(
                states[i], visit.calls, batch, sampler
            )
            results.append(result[: batch.count])
            progress(visit.num_calls)
        del stage  # before the next block is loaded
    return results


def progress_bar(parts, visits, verbose):
    """Function that advances a progress bar by a number of denoiser calls."""
    if not verbose:
        return lambda calls: None
    calls = sum(visit.num_calls for visit in visits)
    return keras.utils.Progbar(len(parts) * calls, unit_name="call").add


class Trajectory:
    """Collects the states of all batches, call by call."""

    def __init__(self):
        self.batches = []

    def __call__(self, visit, noisy, denoised):
        self.batches.append((visit, noisy, denoised))

    def steps(self, num_calls):
        """List of one dict per call."""
        steps = []
        for i, (visit, _, _) in enumerate(self.batches[:num_calls]):
            _, noisy, denoised = zip(*self.batches[i::num_calls], strict=True)
            step = {k: v[0] for k, v in visit.calls.items()}
            step |= {"block": visit.block, "noisy": np.concatenate(noisy)}
            steps.append({**step, "denoised": np.concatenate(denoised)})
        return steps
