"""How long a run will still take."""

import heapq


class TimeLeft:
    """Estimates the seconds left from what steps and ends of epochs took.

    The first step of each block compiles, and so does the first end of an
    epoch, which validates and draws samples. They last so much longer that
    they are found by it: as many of the slowest are left out.

    Args:
        epochs: int, of the whole run.
        steps_per_epoch: int.
        compilations: int, the number of steps that compile.
    """

    def __init__(self, epochs, steps_per_epoch, compilations):
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.steps = Durations(compilations)
        self.ends = Durations(1)

    def after(self, epoch, step):
        """Seconds left, or None as long as every step may have compiled.

        Args:
            epoch: int from 0, the present epoch.
            step: int, the steps of this epoch that are done.
        """
        if self.steps.mean is None:
            return None
        ends = self.epochs - epoch
        steps = ends * self.steps_per_epoch - step
        return steps * self.steps.mean + ends * (self.ends.mean or 0.0)


class Durations:
    """The mean of durations without the slowest ones.

    Args:
        leave_out: int, how many of the slowest are left out.
    """

    def __init__(self, leave_out):
        self.leave_out = leave_out
        self.slowest = []
        self.sum, self.count = 0.0, 0

    def add(self, seconds):
        """Adds one duration."""
        if self.leave_out > len(self.slowest):
            heapq.heappush(self.slowest, seconds)
            return
        if self.leave_out:
            seconds = heapq.heappushpop(self.slowest, seconds)
        self.sum += seconds
        self.count += 1

    @property
    def mean(self):
        """The mean in seconds, or None without any."""
        return self.sum / self.count if self.count else None
