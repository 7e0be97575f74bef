"""The demo: DiffusionBlocks and both twins in a table and a picture."""

import time

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from .classifier_run import accuracy_figures
from .figures import Figure
from .progress import Progress
from .report import report
from .run import ROWS

CAPTION = """Equal layer evaluations; seconds include compilation.
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
    losses, accuracies, seconds = {}, {}, {}
    blocks = runs["blocks"]
    for row, run in runs.items():
        console.print(run.describe(), soft_wrap=True)
        begin = time.perf_counter()
        means = Losses()
        with Progress(run) as progress:
            run.fit([means, progress], verbose=0)
        losses[row] = means.means
        seconds[row] = time.perf_counter() - begin
        accuracies[row] = run.accuracies()
    count = len(blocks.data.y_test)
    console.print(table(accuracies, seconds, count))
    paths = blocks.save(folder)
    compare_files(blocks, paths, console)
    picture = folder / "report.png"
    report(picture, blocks.model, losses["blocks"], accuracies)
    console.print(f"picture: {picture}", soft_wrap=True)
    figures = {}
    for row, values in accuracies.items():
        of_row = accuracy_figures(values)
        of_row["training time"] = Figure(round(seconds[row], 1), "s")
        figures |= {f"{ROWS[row]}, {n}": f for n, f in of_row.items()}
    return figures


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


def table(accuracies, seconds, count):
    """Table of test accuracies and training times by row."""
    share = np.clip(max(map(max, accuracies.values())) / 100, 0.01, 0.99)
    error = 100 * (share * (1 - share) / count) ** 0.5
    caption = CAPTION.format(count=count, error=error)
    result = Table("", "accuracy, %", "seconds", caption=caption)
    for column in result.columns[1:]:
        column.justify = "right"
    for row, values in accuracies.items():
        for i, value in enumerate(values):
            last = i == len(values) - 1
            place = f", after block {i}" if len(values) > 1 else ""
            time_taken = f"{seconds[row]:.0f}" if last else ""
            result.add_row(ROWS[row] + place, f"{value:.2f}", time_taken)
    return result


def compare_files(run, paths, console):
    """Checks that the saved model and blocks predict as the trained model."""
    x = run.data.x_test
    live = run.model.predict(x, batch_size=128, verbose=0)
    whole, *blocks = paths
    loaded = {
        whole.name: keras.saving.load_model(whole),
        ", ".join(p.name for p in blocks): type(run.model).from_blocks(blocks),
    }
    for name, model in loaded.items():
        logits = model.predict(x, batch_size=128, verbose=0)
        np.testing.assert_allclose(logits, live, rtol=0, atol=1e-5)
        console.print(
            f"{name}: saved in {whole.parent}, loaded, same predictions "
            f"(largest difference {np.abs(logits - live).max():.1g})",
            soft_wrap=True,
        )
