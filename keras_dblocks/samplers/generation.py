"""Samples in batches, one compiled call per visit to a block."""

import keras
import numpy as np
from keras import ops, tree


class Stage(keras.Model):
    """A visit to a block, compiled by `predict_on_batch`.

    Args:
        block: `Block`; its moving averages are used where it has them.
        sampler: `samplers.Sampler`.
    """

    def __init__(self, block, sampler):
        super().__init__(name="stage")
        self.block = block
        self.sampler = sampler
        self.built = True

    def call(self, inputs):
        carry, calls, *condition = inputs
        condition = condition[0] if condition else None
        with self.block.averaged():
            return self.sampler.run(self.block, calls, carry, condition)

    def advance(self, carry, calls, condition):
        """State and prediction after the calls, as numpy arrays."""
        calls = {k: np.array(v, "float32") for k, v in calls.items()}
        condition = () if condition is None else (condition,)
        return self.predict_on_batch((carry, calls, *condition))


class Stages:
    """The stages of a model, made once, so that each is compiled once.

    Args:
        blocks: function of no arguments to the list of blocks.
    """

    def __init__(self, blocks):
        self.blocks = blocks
        self.made = {}

    def __call__(self, index, sampler, num_calls, batch_size):
        """`Stage` of a block, for what the sampler's calls depend on."""
        # One stage for each shape: TensorFlow would compile the second one
        # for any shape, and then round differently.
        sizes = (num_calls, batch_size)
        key = (index, type(sampler), sampler.compiled_settings(), sizes)
        if key not in self.made:
            self.made[key] = Stage(self.blocks()[index], sampler)
        return self.made[key]


def batches(begin, condition, total, batch_size):
    """Batches of start and condition; the last is filled up.

    Args:
        begin: function of a number of examples to their start, numpy.
        condition: numpy array(s) `(total, ...)`, or None.
        total, batch_size: ints.

    Yields:
        `(noisy, condition, count)`, each of `batch_size` examples, the first
        `count` of which were asked for.
    """
    for first in range(0, total, batch_size):
        count = min(batch_size, total - first)
        # One shape, so that each block is compiled once.
        rows = np.minimum(np.arange(first, first + batch_size), total - 1)
        noisy = begin(count)
        filling = np.zeros((batch_size - count, *noisy.shape[1:]), noisy.dtype)
        part = condition
        if condition is not None:
            part = tree.map_structure(lambda a, rows=rows: a[rows], condition)
        yield np.concatenate([noisy, filling]), part, count


def normal_start(noise, shape, seed):
    """`begin` of `batches`: Gaussian noise, the same on every backend."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    scale = np.float32(noise.start_scale)

    def begin(count):
        draw = generator.standard_normal((count, *shape), dtype="float32")
        return scale * draw

    return begin


def generate(stages, visits, sampler, starts, progress, keep=None):
    """Runs all visits batch by batch.

    Args:
        stages: `Stages`.
        visits: list of `Visit`.
        sampler: `samplers.Sampler`.
        starts: see `batches`.
        progress: function called after each visit with its number of calls.
        keep: function called with `(visit, noisy, prediction)` after each
            visit, or None; `noisy` is what the visit began with.

    Yields:
        Prediction `(count, ...)` of each batch, numpy.
    """
    for number, (noisy, condition, count) in enumerate(starts):
        carry = _numpy(sampler.carry(noisy, number))
        for visit in visits:
            before = carry[0]
            calls = len(visit.calls["level"])
            stage = stages(visit.block, sampler, calls, len(noisy))
            carry, prediction = stage.advance(carry, visit.calls, condition)
            if keep is not None:
                keep(visit, before[:count], prediction[:count])
            progress(calls)
        yield prediction[:count]


def stream(load, visits, sampler, starts, progress):
    """`generate` that holds one block at a time, for all batches.

    Args:
        load: function of a block's index to the `Block`.
        visits, sampler, starts, progress: as in `generate`.

    Returns:
        List of predictions, one per batch.
    """
    states = [
        (_numpy(sampler.carry(noisy, i)), condition, count)
        for i, (noisy, condition, count) in enumerate(starts)
    ]
    for visit in visits:
        stage = Stage(load(visit.block), sampler)
        predictions = []
        for i, (carry, condition, count) in enumerate(states):
            carry, prediction = stage.advance(carry, visit.calls, condition)
            states[i] = (carry, condition, count)
            predictions.append(prediction[:count])
            progress(len(visit.calls["level"]))
        del stage  # before the next block is loaded
    return predictions


def progress_bar(total, batch_size, visits, verbose):
    """Function that moves a bar by a number of calls of the denoiser."""
    if not verbose:
        return lambda calls: None
    batches = -(-total // batch_size)
    calls = sum(len(visit.calls["level"]) for visit in visits)
    return keras.utils.Progbar(batches * calls, unit_name="call").add


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


def _numpy(carry):
    return tree.map_structure(ops.convert_to_numpy, carry)
