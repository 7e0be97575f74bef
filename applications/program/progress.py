"""Shows how far a run is: a bar in a terminal, else plain lines."""

import datetime
import sys
import threading
import time

import keras
from rich import progress
from rich.console import Console

from .time_left import TimeLeft


def in_terminal():
    """Whether the output is seen in a terminal, which can redraw a line."""
    return sys.stdout.isatty()


class Progress(keras.callbacks.Callback):
    """Shows epoch, step, losses and the time left of a whole run.

    A bar in a terminal is redrawn. Other outputs, such as a file, get a line
    every `interval` seconds, at the first and at the last step. Both get a
    line after each validation. It is a context manager, which closes the bar.

    Args:
        run: `Run`.
        interval: float, seconds from one line to the next.
    """

    def __init__(self, run, interval=10.0):
        super().__init__()
        # Keras calls it in a thread, so that no step waits for the losses of
        # the step before it. A late call must not turn the count back.
        self.async_safe = True
        self.lock = threading.Lock()
        self.epochs = run.epochs
        self.steps_per_epoch = run.batches.num_batches
        compilations = run.model.num_blocks if run.in_blocks else 1
        self.time_left = TimeLeft(
            self.epochs, self.steps_per_epoch, compilations
        )
        self.interval = interval
        self.epoch = self.step = 0
        self.at = None  # when the last step or epoch began, in seconds
        self.shown_at = None
        self.bar = _make_bar() if in_terminal() else None
        self.task = None

    def __enter__(self):
        if self.bar:
            self.bar.start()
            total = self.epochs * self.steps_per_epoch
            self.task = self.bar.add_task("", total=total, text="compiling")
        return self

    def __exit__(self, *error):
        if self.bar:
            self.bar.stop()

    def on_epoch_begin(self, epoch, logs=None):
        now = time.perf_counter()
        if self.at is not None:
            self.time_left.ends.add(now - self.at)
        self.epoch, self.step, self.at = epoch, 0, now

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        with self.lock:
            if batch < self.step:
                return
            steps = batch + 1 - self.step  # late ones among them
            for _ in range(steps):
                self.time_left.steps.add((now - self.at) / steps)
            self.step, self.at = batch + 1, now
            self._show(now, logs)

    def on_epoch_end(self, epoch, logs=None):
        measured = {k: v for k, v in logs.items() if k.startswith("val_")}
        if measured:
            self._print(f"{self._place()}: {_text(measured)}")

    def _show(self, now, logs):
        text = _text(_losses(logs))
        left = self.time_left.after(self.epoch, self.step)
        left = "compiling" if left is None else f"{_time(left)} left"
        if self.bar:
            done = self.epoch * self.steps_per_epoch + self.step
            text = f"{left}  {text}"
            self.bar.update(self.task, completed=done, text=text)
            return
        last = (self.epoch + 1, self.step) == (
            self.epochs,
            self.steps_per_epoch,
        )
        waited = self.shown_at is None or now >= self.shown_at + self.interval
        if waited or last:
            self.shown_at = now
            self._print(f"{self._place()}: {text}, {left}")

    def _place(self):
        return (
            f"epoch {self.epoch + 1:,} of {self.epochs:,}, step "
            f"{self.step:,} of {self.steps_per_epoch:,}"
        )

    def _print(self, line):
        if self.bar:
            self.bar.console.print(line, soft_wrap=True, highlight=False)
        else:
            print(line, flush=True)


def _make_bar():
    columns = (
        progress.TextColumn("{task.completed}/{task.total}"),
        progress.BarColumn(None),  # the remaining width of the line
        progress.TextColumn("{task.fields[text]}"),
    )
    return progress.Progress(*columns, console=Console(), expand=True)


def _losses(logs):
    """The loss of each block so far, or of a model that has no blocks."""
    blocks = {
        name: value
        for name, value in logs.items()
        if name.startswith("block_") and value == value  # NaN: not yet drawn
    }
    return blocks or {"loss": logs["loss"]}


def _text(values):
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in values.items()
    )


def _time(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))
