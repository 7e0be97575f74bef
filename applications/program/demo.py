"""The demo: DiffusionBlocks and both twins in a table and a picture."""

import statistics
import time

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_dblocks import memory
from keras_dblocks.memory.usage import MIB

from .classifier_run import accuracy_figures
from .figures import Figure
from .progress import Progress
from .report import report
from .run import ROWS

CAPTION = """Equal layer evaluations. MiB a step: activations and gradients
of one training step; MiB held: these, weights and optimizer state together.
Times are medians over the epochs after the first, which compiles.
Standard error of an accuracy, with {count} test images: {error:.1f} %"""


def demo(runs, folder):
    """Trains and compares the runs; saves DiffusionBlocks and loads them again.

    Args:
        runs: dict of `ClassifierRun` by row of `ROWS`, "blocks" first.
        folder: path of the folder for the files.

    Returns:
        Dict of `Figure`s by name.
    """
    console = Console(highlight=False)
    losses, accuracies, seconds, usage = {}, {}, {}, {}
    blocks = runs["blocks"]
    for row, run in runs.items():
        console.print(run.describe(), soft_wrap=True)
        means, clock = Losses(), Clock()
        with Progress(run) as progress:
            run.fit([means, clock, progress], verbose=0)
        losses[row], seconds[row] = means.means, clock.seconds()
        accuracies[row] = run.accuracies()
        usage[row] = memory.measure(run.model, *run.batches[0])
    count = len(blocks.data.y_test)
    console.print(table(accuracies, seconds, usage, count))
    console.print(sentence(accuracies, usage, count), soft_wrap=True)
    paths = blocks.save(folder)
    compare_files(blocks, paths, console)
    picture = folder / "report.png"
    report(picture, blocks.model, losses["blocks"], accuracies)
    console.print(f"picture: {picture}", soft_wrap=True)
    figures = {}
    for row, values in accuracies.items():
        of_row = accuracy_figures(values)
        of_row["time of a step"] = Figure(round(1000 * seconds[row], 2), "ms")
        for name, part in MEMORY.items():
            size = getattr(usage[row], part) / MIB
            of_row[name] = Figure(round(size, 3), "MiB")
        figures |= {f"{ROWS[row]}, {n}": f for n, f in of_row.items()}
    return figures


MEMORY = {
    "memory of a step": "temporaries",
    "optimizer state": "optimizer_state",
    "resident memory": "total",
}


class Clock(keras.callbacks.Callback):
    """Measures how long a step takes."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        passed = time.perf_counter() - self.begun
        self.times.append(passed / self.params["steps"])

    def seconds(self):
        """Seconds of a step; the first epoch counts if it is the only one."""
        return statistics.median(self.times[1:] or self.times)


class Losses(keras.callbacks.Callback):
    """Collects the means of the losses of each epoch.

    `means` is a dict of losses by name, each a list of `(step, mean)`.
    """

    def __init__(self):
        super().__init__()
        self.means = {}

    def on_epoch_end(self, epoch, logs=None):
        step = (epoch + 1) * self.params["steps"]
        for name, value in logs.items():
            self.means.setdefault(name, []).append((step, value))


def table(accuracies, seconds, usage, count):
    """Table of test accuracies, memory and time by row."""
    caption = CAPTION.format(count=count, error=error_of(accuracies, count))
    heads = "% right", "MiB a step", "MiB held", "ms a step"
    result = Table("", *heads, caption=caption)
    result.columns[0].no_wrap = True  # the headings give way
    for column in result.columns[1:]:
        column.justify = "right"
    for row, values in accuracies.items():
        *earlier, last = values
        result.add_row(
            ROWS[row],
            f"{last:.2f}",
            f"{usage[row].temporaries / MIB:.1f}",
            f"{usage[row].total / MIB:.1f}",
            f"{1000 * seconds[row]:.1f}",
        )
        for i, value in enumerate(earlier):
            result.add_row(f"  after block {i}", f"{value:.2f}")
    return result


def error_of(accuracies, count):
    """Standard error in percent of the best accuracy on `count` images."""
    share = np.clip(max(map(max, accuracies.values())) / 100, 0.01, 0.99)
    return 100 * (share * (1 - share) / count) ** 0.5


def sentence(accuracies, usage, count):
    """What the table says, in one sentence."""
    ours, twin, matched = (
        accuracies[row][-1] for row in ("blocks", "end_to_end", "layer_matched")
    )
    unsure = 2 * 2**0.5 * error_of(accuracies, count)  # of a difference
    share = usage["blocks"].temporaries / usage["end_to_end"].temporaries
    kind = "better than" if ours > twin else "worse than"
    if abs(ours - twin) < unsure:
        kind = "as accurate as"
    depth = f"a network as deep as one block has {matched:.1f} %"
    if abs(matched - twin) < unsure:
        depth += ", so that this task needs no depth"
    return (
        f"Blocks are {kind} the end-to-end twin ({ours:.1f} and {twin:.1f} %) "
        f"with {share:.2f} of its activations and gradients in a step; {depth}."
    )


def compare_files(run, paths, console):
    """Checks that the saved model and blocks predict as the trained model."""
    x = run.data.x_test
    live = _answers(run.model, x)
    whole, *blocks = paths
    kind, names = type(run.model), ", ".join(p.name for p in blocks)
    answers = {
        f"{whole.name}: saved in {whole.parent}, loaded": _answers(
            keras.saving.load_model(whole), x
        ),
        f"{names}: assembled": _answers(kind.from_blocks(blocks), x),
        f"{names}: one in memory at a time": kind.predict_from_blocks(
            blocks, x
        ),
    }
    for name, logits in answers.items():
        # Blocks that are run one at a time are compiled apart, and round apart:
        # of a logit near 10, a hundred-thousandth is 50 float32 steps.
        np.testing.assert_allclose(logits, live, rtol=1e-5, atol=1e-5)
        console.print(
            f"{name}, same predictions "
            f"(largest difference {np.abs(logits - live).max():.1g})",
            soft_wrap=True,
        )


def _answers(model, x):
    return model.predict(x, batch_size=128, verbose=0)
