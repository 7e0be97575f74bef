"""The demo: DiffusionBlocks and both twins in a table and a picture."""

import time

import keras
import numpy as np
from rich import progress
from rich.console import Console
from rich.table import Table

from .report import report
from .run import ROWS

CAPTION = """Equal layer evaluations; seconds include compilation.
Standard error of an accuracy, with {count} test images: {error:.1f}"""


def demo(runs, folder):
    """Trains and compares the runs; saves DiffusionBlocks and loads them again.

    Args:
        runs: dict of `Run` by row of `ROWS`, "blocks" first.
        folder: path of the folder for the files.
    """
    console = Console(highlight=False)
    losses, accuracies, seconds = {}, {}, {}
    blocks = runs["blocks"]
    for row, run in runs.items():
        console.print(run.describe(), soft_wrap=True)
        begin = time.perf_counter()
        losses[row] = fit_with_bar(run, console)
        seconds[row] = time.perf_counter() - begin
        accuracies[row] = run.accuracies()
    count = len(blocks.data.y_test)
    console.print(table(accuracies, seconds, count))
    paths = blocks.save(folder)
    compare_files(blocks, paths, console)
    picture = folder / "report.png"
    report(picture, blocks.model, losses["blocks"], accuracies)
    console.print(f"picture: {picture}", soft_wrap=True)


def fit_with_bar(run, console):
    """Trains with one progress bar for the whole run.

    Returns:
        Dict of losses by name, each a list of `(step, mean of the epoch)`.
    """
    columns = (
        progress.TextColumn("{task.completed}/{task.total}"),
        progress.BarColumn(None),  # the remaining width of the line
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[losses]}"),
    )
    with progress.Progress(*columns, console=console, expand=True) as bar:
        callback = Losses(bar, run.num_steps)
        run.fit([callback], verbose=0)
    return callback.means


class Losses(keras.callbacks.Callback):
    """Shows the losses in a progress bar, and collects their means."""

    def __init__(self, bar, num_steps):
        super().__init__()
        self.bar = bar
        self.task = bar.add_task("", total=num_steps, losses="compiling")
        self.step = 0
        self.means = {}

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        names = sorted(n for n in logs if n.startswith("block_")) or ["loss"]
        text = "  ".join(
            f"{n[:7].replace('_', ' ')} {logs[n]:.3f}" for n in names
        )
        self.bar.update(self.task, advance=1, losses=text)

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.means.setdefault(name, []).append((self.step, value))


def table(accuracies, seconds, count):
    """Table of test accuracies and training times by row."""
    share = np.clip(max(map(max, accuracies.values())) / 100, 0.01, 0.99)
    error = 100 * (share * (1 - share) / count) ** 0.5
    caption = CAPTION.format(count=count, error=error)
    result = Table("", "test accuracy", "seconds", caption=caption)
    for column in result.columns[1:]:
        column.justify = "right"
    for row, values in accuracies.items():
        for i, value in enumerate(values):
            last = i == len(values) - 1
            place = f", after block {i}" if len(values) > 1 else ""
            time_taken = f"{seconds[row]:.0f}" if last else ""
            result.add_row(ROWS[row] + place, f"{value:.2f} %", time_taken)
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
