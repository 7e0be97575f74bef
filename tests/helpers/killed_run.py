"""A run that `test_resume.py` kills, in a process of its own, and resumes."""

import json
import os
import signal
import sys

import keras

from helpers import small_vit


class Record(keras.callbacks.Callback):
    """Notes each step: its number in the whole run, sum and count of losses.

    Args:
        kill_at: int, the step after which the process dies, or 0.
    """

    def __init__(self, kill_at):
        super().__init__()
        self.kill_at, self.lines = kill_at, []

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.training_step()
        tracker = self.model._loss_tracker
        line = [step, float(tracker.total), float(tracker.count)]
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, kill_at, save_freq, which):
    """Trains for 20 steps; returns what each noted, and all weights."""
    x, y = small_vit.data(40)
    model = small_vit.make(2, dropout=0.2)
    model = model if which == "all" else model.block(1)
    options = {"on_policy": 0.5} if which == "all" else {}
    model.compile("adamw", **options)
    record = Record(kill_at)
    backup = keras.callbacks.BackupAndRestore(folder, save_freq=save_freq)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=4,
        verbose=0,
        callbacks=[record, backup],
    )
    return record.lines, small_vit.values(model.weights)


if __name__ == "__main__":
    folder, kill_at, save_freq, which = sys.argv[1:]
    save_freq = save_freq if save_freq == "epoch" else int(save_freq)
    run(folder, int(kill_at), save_freq, which)
