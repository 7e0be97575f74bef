"""Curricula: which block is trained when, and what it starts from."""

import bisect
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_dblocks.checks import is_integer


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive steps of a curriculum.

    Attributes:
        share: float. Length relative to those of the other phases.
        block: int, the block that is trained, or None to draw one for each
            step by `compile(block_order=...)`.
        start_from: int or None. Before the first step of the phase the
            weights of this block are copied to all blocks that no earlier
            phase trained.
        as_only_block: bool. True trains the block as if there was no other:
            on all noise levels instead of those of its own range.
        rate: float. Factor of the learning rate, where that is a schedule.
    """

    share: float
    block: int | None = None
    start_from: int | None = None
    as_only_block: bool = False
    rate: float = 1.0


class Curriculum:
    """Phases of a run, as a pure function of the step and the run's length.

    Args:
        phases: list of `Phase`.

    Raises:
        ValueError: if there is no phase, or a share is not above 0.

    Example:

    ```python
    curriculum = Curriculum([Phase(1.0, block=0), Phase(3.0, 1, start_from=0)])
    curriculum.phase_of(24, num_steps=100)  # 0
    curriculum.phase_of(25, num_steps=100)  # 1
    curriculum.phase_of(100, num_steps=100)  # 2: it is over
    ```
    """

    def __init__(self, phases):
        self.phases = tuple(phases)
        if not self.phases or not all(p.share > 0 for p in self.phases):
            raise ValueError(
                "A curriculum needs phases with shares above 0. Received: "
                f"{self.phases}. Pass a list of `Phase(share, block)`."
            )

    def ends(self, num_steps):
        """First step after each phase, a list of ints; the last is the end."""
        shares = np.array([phase.share for phase in self.phases], "float64")
        ends = np.cumsum(shares) / shares.sum() * num_steps
        return [int(end) for end in np.floor(ends + 0.5)]

    def phase_of(self, step, num_steps):
        """Number of the phase that a step belongs to, or of all phases."""
        return bisect.bisect_right(self.ends(num_steps), step)

    def spans(self, block, num_steps, num_blocks):
        """The block's own steps in each phase that trains it.

        Args:
            block: int, or None for what is trained in every step.
            num_steps: int. Length of the curriculum.
            num_blocks: int.

        Returns:
            List of tuples `(first, count, rate)`: the block's own first step,
            a float, their number and the factor of the learning rate.
        """
        spans, first, before = [], 0.0, 0
        for phase, end in zip(self.phases, self.ends(num_steps), strict=True):
            count = end - before
            before = end
            if block is not None:
                if phase.block not in (None, block):
                    continue
                if phase.block is None:  # its share of what is drawn
                    count = count / num_blocks
            if count:
                spans.append((first, float(count), phase.rate))
            first += count
        return spans


def in_sequence(num_blocks):
    """One block after the other, each from a copy of the one before it.

    Shares of the steps grow with depth by the factor `1 + 3 / num_blocks`, so
    that of three blocks each has twice the steps of the one before it, and the
    last of many some 20 times those of the first (docs/method.md#curricula).
    """
    return _one_by_one(num_blocks, 1.0 + 3.0 / num_blocks)


def common_start(num_blocks):
    """One shallow model on all noise levels, then blocks that copy it.

    The shares and the rate are what measured best for masked diffusion
    (docs/method.md#curricula).

    References:
     - [eDiff-I](https://arxiv.org/abs/2211.01324), Section 3.1
    """
    return Curriculum(
        [
            Phase(0.75, block=0, as_only_block=True),
            Phase(0.25, start_from=0, rate=0.6),
        ]
    )


def equal_parts(num_blocks):
    """One block after the other as `in_sequence`, all for equally long.

    It is for blocks that each answer for levels of their own and whose states
    later blocks read (docs/method.md#curricula).
    """
    return _one_by_one(num_blocks, 1.0)


def _one_by_one(num_blocks, ratio):
    """Blocks in sequence, each with `ratio` times the steps of the last."""
    return Curriculum(
        Phase(ratio**i, block=i, start_from=i - 1 if i else None)
        for i in range(num_blocks)
    )


BY_NAME = {
    "in_sequence": in_sequence,
    "common_start": common_start,
    "equal_parts": equal_parts,
}


def get(curriculum, num_blocks):
    """The `Curriculum` of a name, or None for `"sampled"`.

    Args:
        curriculum: `Curriculum`, list of `Phase` or of dicts, `"sampled"`,
            `"in_sequence"`, `"equal_parts"` or `"common_start"`.
        num_blocks: int.

    Raises:
        ValueError: for an unknown name or blocks that do not exist.
    """
    if isinstance(curriculum, (list, tuple)):
        curriculum = Curriculum(
            Phase(**phase) if isinstance(phase, dict) else phase
            for phase in curriculum
        )
    if curriculum == "sampled" or num_blocks == 1:
        return None
    if isinstance(curriculum, str) and curriculum in BY_NAME:
        return BY_NAME[curriculum](num_blocks)
    if not isinstance(curriculum, Curriculum):
        raise ValueError(
            f"`curriculum` must be one of {['sampled', *BY_NAME]}, or a list "
            f"of `Phase`. Received: curriculum={curriculum!r}. "
            "Leave it out for the model's default."
        )
    for phase in curriculum.phases:
        for block in (phase.block, phase.start_from):
            known = block is None or is_integer(block)
            if not known or not 0 <= (block or 0) < num_blocks:
                raise ValueError(
                    f"A phase names blocks 0 to {num_blocks - 1}. "
                    f"Received: {phase}. Count from 0."
                )
    return curriculum


def as_config(curriculum):
    """A curriculum as `compile` takes it, in plain dicts."""
    if isinstance(curriculum, Curriculum):
        curriculum = curriculum.phases
    if isinstance(curriculum, (list, tuple)):
        return [
            dataclasses.asdict(p) if isinstance(p, Phase) else p
            for p in curriculum
        ]
    return curriculum


@keras.saving.register_keras_serializable(package="keras_dblocks")
class PhasedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that is gone through as a whole in every phase.

    Args:
        schedule: `LearningRateSchedule`, written for `length` steps.
        length: float. Steps of one block if all had equally many.
        spans: list of `(first step, number of steps, factor of the rate)`, see
            `Curriculum.spans`. After the last one its schedule goes on.
    """

    def __init__(self, schedule, length=1.0, spans=()):
        self.schedule = schedule
        self.length = length
        self.spans = [tuple(span) for span in spans]

    def __call__(self, step):
        if not self.spans:
            return self.schedule(step)
        step = ops.cast(step, "float32")
        place, factor = 0.0, 1.0
        for first, count, rate in self.spans:
            begun = step >= first
            here = (step - first) * (self.length / count)
            place = ops.where(begun, here, place)
            factor = ops.where(begun, rate, factor)
        return factor * self.schedule(place)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {
            "schedule": schedule,
            "length": self.length,
            "spans": self.spans,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["length"], config["spans"])


class CurriculumRun:
    """A model's way through a curriculum.

    Everything follows from the step and the curriculum's length, which is
    saved with the model. A run that was killed therefore goes on where it was,
    and copies are made at the first step of a phase, once.

    Args:
        model: `BlockTrainer`.
        curriculum: `Curriculum`, or None to draw a block for every step.
        num_steps: int or None, the length if it was given to `compile`.
        schedules: list of pairs of a block (None: shared parts) and the
            `PhasedSchedule` of its optimizer.
    """

    def __init__(self, model, curriculum, num_steps, schedules):
        self.model = model
        self.curriculum = curriculum
        self.given = num_steps
        self.schedules = schedules
        self.num_steps = 0  # known when `fit` begins
        self.ends = []  # `Curriculum.ends`, which every step reads

    def begin(self, epochs, steps):
        """Fixes the length at the first `fit`, or reads it.

        Args:
            epochs, steps: ints, the epochs of this `fit` and their steps; None
                if unknown.

        Returns:
            Whether what is compiled was compiled for another length.
        """
        if self.curriculum is None:
            return False
        known = int(self.model.curriculum_length)
        if not known:
            if self.given is None and not (epochs and steps):
                raise ValueError(
                    "A curriculum is divided among its phases, so that its "
                    "length must be known. Received: data of unknown length. "
                    "Pass `compile(curriculum_steps=...)` or "
                    "`fit(steps_per_epoch=...)`."
                )
            known = self.given or epochs * steps
            self.model.curriculum_length.assign(known)
        changed = known != self.num_steps
        self.num_steps, self.ends = known, self.curriculum.ends(known)
        blocks = self.model.num_blocks
        for block, schedule in self.schedules:
            schedule.length = known / blocks
            schedule.spans = self.curriculum.spans(block, known, blocks)
        return changed

    def phase(self, step):
        """The `Phase` of a step, or None if blocks are drawn."""
        if self.curriculum is None:
            return None
        if not self.num_steps:
            raise ValueError(
                "A curriculum is divided among its phases, so that its length "
                "must be known. Received: a batch without. Use `fit`, or "
                '`compile(curriculum="sampled")`.'
            )
        number, phases = self.number(step), self.curriculum.phases
        return phases[number] if number < len(phases) else None

    def number(self, step):
        """Number of the phase of a step, or of all phases after the end."""
        return bisect.bisect_right(self.ends, step)

    def copies(self, step):
        """Pairs of blocks `(from, to)` to be copied before a step."""
        phase = self.phase(step)
        if phase is None or (step and step not in self.ends):
            return []
        return self._copies_to_untrained(self.number(step), phase.start_from)

    def copies_at_the_end(self, step):
        """Pairs of blocks to be copied if training ends before a step.

        Blocks whose phase has not come yet are then as good as the last one
        that was trained, instead of untrained.
        """
        phase = self.phase(step - 1) if step else None
        if phase is None or phase.block is None:
            return []
        return self._copies_to_untrained(self.number(step - 1) + 1, phase.block)

    def _copies_to_untrained(self, number, source):
        earlier = self.curriculum.phases[:number]
        trained = {phase.block for phase in earlier}
        if source is None or None in trained:
            return []
        blocks = range(self.model.num_blocks)
        return [(source, i) for i in blocks if i not in {*trained, source}]
