"""The chain, which makes a sampler's denoiser calls block after block."""

import itertools
import warnings
from typing import NamedTuple

from keras import ops

from keras_dblocks import streams
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.samplers.sampler import Draws, Sampler


class Visit(NamedTuple):
    """Consecutive calls of one block's denoiser.

    Attributes:
        block: int.
        calls: dict of tuples of floats with an entry for each call. It is a
            part of `Sampler.calls`, with `"number"`, the call's number in the
            chain.

    Example:

    ```python
    Visit(0, {"level": (80.0, 5.0), "number": (0, 1)}).num_calls  # 2
    ```
    """

    block: int
    calls: dict

    def split(self) -> list["Visit"]:
        """List of visits with one call each."""
        rows = zip(*self.calls.values(), strict=True)
        calls = [dict(zip(self.calls, row, strict=True)) for row in rows]
        return [
            Visit(self.block, {k: (v,) for k, v in call.items()})
            for call in calls
        ]

    @property
    def num_calls(self) -> int:
        """Number of calls (int)."""
        return len(self.calls["level"])


def plan(
    sampler: Sampler, partition: Partition, may_skip: bool = False
) -> list[Visit]:
    """Lists the visits to blocks that a sampler makes, as `Visit`.

    It warns when a block would not be called.

    Args:
        sampler: `Sampler`.
        partition: `Partition`.
        may_skip: bool. True does not warn: where the state alone is handed
            over, later blocks run those that no call is for.

    Example:

    ```python
    partition = Partition(LogNormalNoise(), num_layers=6, num_blocks=3)
    [visit.block for visit in plan(EulerSampler(), partition)]  # [0, 1, 2]
    ```
    """
    levels = [float(level) for level in sampler.levels(partition)]
    calls = sampler.calls([*levels, 0.0])
    calls["number"] = list(range(len(calls["level"])))
    blocks = [int(block) for block in partition.block_of(calls["level"])]
    missing = sorted({*range(partition.num_blocks)} - {*blocks})
    if missing and not (may_skip or sampler.skips_blocks):
        warnings.warn(
            f"{len(levels)} steps of {sampler} never call blocks {missing}. "
            'Take more steps, or grid="upper_edges".',
            stacklevel=2,
        )
    visits, first = [], 0
    for block, run in itertools.groupby(blocks):
        last = first + len(list(run))
        part = {key: tuple(values[first:last]) for key, values in calls.items()}
        visits.append(Visit(block, part))
        first = last
    return visits


def last_calls(sampler, partition, may_skip=False):
    """For each block that is visited, the number of its last call (dict)."""
    visits = plan(sampler, partition, may_skip)
    ends = itertools.accumulate(visit.num_calls for visit in visits)
    blocks = [visit.block for visit in visits]
    return {b: end - 1 for b, end in zip(blocks, ends, strict=True)}


def stream_of(sampler, purpose):
    """`Stream` that a sampler draws its `"start"` or a `"step"` from."""
    return streams.Stream(sampler.seed, f"sampling_{purpose}")


def start(sampler, noise, rows, signal_shape):
    """Noisy signals `(B, *signal_shape)` that the rows' chains start from.

    Args:
        sampler: `Sampler`.
        noise: `Noise`.
        rows: int32 tensor `(B,)`, the rows' numbers in the whole call. A
            row's noise depends on its number, not on the rest of the batch.
        signal_shape: tuple, shape of one clean signal.
    """
    stream = None
    if sampler.starts_from_noise:
        stream = stream_of(sampler, "start")
    return noise.start(rows, signal_shape, stream)


def sample(blocks, partition, sampler, noisy, condition, rows):
    """Result of the chain's last call, with one compiled loop per visit.

    Args:
        blocks: list of `Block`.
        partition: `Partition`.
        sampler: `Sampler`.
        noisy: tensor `(B, ...)`, see `start`.
        condition: tensor(s) `(B, ...)`, or None.
        rows: int32 tensor `(B,)`.
    """
    state = begin(blocks[0], sampler, noisy)
    stream = stream_of(sampler, "step")
    may_skip = blocks[0].method.state_alone
    for index, calls in plan(sampler, partition, may_skip):
        state, result = run(
            running(blocks, index),
            sampler,
            calls,
            state,
            condition,
            rows,
            stream,
        )
    return result


def running(blocks, index):
    """The blocks that a call of one of them runs, which is the last (list).

    Args:
        blocks: list of `Block`.
        index: int.
    """
    first = 0 if blocks[index].method.state_alone else index
    return blocks[first : index + 1]


def handed_to(blocks, noisy, level, condition=None, scale=None, handed=()):
    """What the last of the blocks is handed.

    Args:
        blocks: list of `Block`, see `running`. If the state is all that is
            handed over, those before the last make it of this noisy signal.
        noisy, level, condition, scale: see `Block.guided_pass`.
        handed: what the call before handed over.
    """
    *earlier, block = blocks
    if block.method.state_alone:
        handed = block.nothing_handed(ops.shape(noisy)[0], scale is not None)
    for other in earlier:
        handed = other.hand_on(noisy, level, condition, scale, handed)
    return handed


def denoise(blocks, noisy, level, condition=None):
    """Prediction of the last of the blocks, see `handed_to`."""
    handed = handed_to(blocks, noisy, level, condition)
    return blocks[-1].denoise_pass(noisy, level, condition, handed)[0]


def begin(block, sampler, noisy):
    """The chain's first state, in which no call has handed over anything.

    Args:
        block: `Block`, any of the chain.
        sampler: `Sampler`.
        noisy: tensor `(B, ...)`, see `start`.

    Returns:
        Pair of the sampler's own state and zeros, see `run`.
    """
    guided = sampler.guidance_scale is not None
    handed = block.nothing_handed(ops.shape(noisy)[0], guided)
    return sampler.initial(noisy), handed


def trajectory(blocks, partition, sampler, noisy, condition, rows):
    """Every call of the chain, unrolled; the arguments are those of `sample`.

    Returns:
        List of one dict per call: the call's entries, `block`, `noisy` (what
        the block was called with), `prediction` and `denoised`.
    """
    state = begin(blocks[0], sampler, noisy)
    stream = stream_of(sampler, "step")
    may_skip = blocks[0].method.state_alone
    visits, steps = plan(sampler, partition, may_skip), []
    for index, calls in [one for visit in visits for one in visit.split()]:
        call = {name: value for name, (value,) in calls.items()}
        made = {**call, "block": index, "noisy": state[0][0]}
        state, made["prediction"], made["denoised"] = advance(
            running(blocks, index),
            sampler,
            call,
            state,
            condition,
            rows,
            stream,
        )
        steps.append(made)
    return steps


def run(blocks, sampler, calls, state, condition, rows, stream):
    """Makes consecutive calls of one block in one compiled loop.

    A chain that is unrolled over many steps would take minutes to compile.

    Args:
        blocks: list of `Block`, see `running`.
        sampler: `Sampler`.
        calls: dict of floats `(num_calls,)`, those of a `Visit`.
        state: pair of a tuple of tensors, see `Sampler.initial`, and of what
            the call before handed over, see `Block.denoise_pass`.
        condition: tensor(s) `(B, ...)`, or None.
        rows: int32 tensor `(B,)`.
        stream: `Stream`, see `stream_of`.

    Returns:
        The state after the calls, and the last call's `Sampler.result`.
    """
    calls = {
        name: ops.convert_to_tensor(values, dtype="float32")
        for name, values in calls.items()
    }

    def body(i, carry):
        call = {name: values[i] for name, values in calls.items()}
        state, prediction, _ = advance(
            blocks, sampler, call, carry[0], condition, rows, stream
        )
        return state, sampler.result(state[0], prediction)

    count = ops.shape(calls["level"])[0]  # a tensor while TensorFlow traces
    if isinstance(count, int) and count == 1:
        return body(0, (state,))
    blank = sampler.no_result(state[0], blocks[-1].prediction_shape)
    return ops.fori_loop(0, count, body, (state, blank))


def advance(blocks, sampler, call, state, condition, rows, stream):
    """State, prediction and denoised signal after one call of a denoiser."""
    own, handed = state
    level = ops.cast(call["level"], "float32")
    level = level * ops.ones((ops.shape(own[0])[0],), dtype="float32")
    given = own[0], level, condition, sampler.guidance_scale
    handed = handed_to(blocks, *given, handed)
    prediction, handed = blocks[-1].guided_pass(*given, handed)
    denoised = blocks[-1].target.bridge(prediction)
    step = ops.cast(call["number"], "int32")
    draws = Draws(stream, rows, step)
    own = sampler.step(own, denoised, call, draws)
    return (own, handed), prediction, denoised
