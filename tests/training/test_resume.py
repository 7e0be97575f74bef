"""Killed at any step and resumed: the same losses as if never killed."""

import json
import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, signal, sys
import keras
import numpy as np
from keras_dblocks.applications.vit import ViT

folder, kill_at, save_freq, which = sys.argv[1:5]
save_freq = save_freq if save_freq == "epoch" else int(save_freq)

class Record(keras.callbacks.Callback):
    # Loss of each step, by the step's number in the whole run.
    def on_epoch_begin(self, epoch, logs=None):
        self.before = (0.0, 0)
    def on_train_batch_end(self, batch, logs=None):
        step = self.model.training_step()
        tracker = self.model._loss_tracker
        now = float(tracker.total), float(tracker.count)
        print(json.dumps([step, now[0], now[1]]), flush=True)
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

keras.utils.set_random_seed(2)
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 40).astype("int32")
x = (rng.normal(size=(40, 8, 8, 1)) + y[:, None, None, None]).astype("float32")
model = ViT(image_size=8, num_classes=4, channels=1, patch_size=4,
            hidden_dim=12, num_heads=2, num_layers=2, num_blocks=2,
            dropout=0.2)
model = model if which == "all" else model.block(1)
options = {"on_policy": 0.5} if which == "all" else {}
model.compile("adamw", **options)
backup = keras.callbacks.BackupAndRestore(folder, save_freq=save_freq)
model.fit(x, y, batch_size=8, epochs=4, verbose=0,
          callbacks=[Record(), backup])
weights = [keras.ops.convert_to_numpy(v) for v in model.weights]
total = sum(float(np.sum(np.square(w, dtype="float64"))) for w in weights)
print(json.dumps(["weights", repr(total)]), flush=True)
"""


def run(folder, kill_at, save_freq, which):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM]
        + [str(a) for a in (folder, kill_at, save_freq, which)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    lines = [json.loads(s) for s in result.stdout.splitlines() if s[:1] == "["]
    return result, lines


@pytest.mark.parametrize(
    ("save_freq", "which"),
    [
        pytest.param("epoch", "all", marks=pytest.mark.slow),
        (3, "all"),
        pytest.param("epoch", "block", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_to_the_last_bit(tmp_path, save_freq, which):
    whole, wanted = run(tmp_path / "whole", 0, save_freq, which)
    assert whole.returncode == 0, whole.stderr
    killed, before = run(tmp_path / "killed", 13, save_freq, which)
    assert killed.returncode == -signal.SIGKILL
    assert before == wanted[:13]
    resumed, after = run(tmp_path / "killed", 0, save_freq, which)
    assert resumed.returncode == 0, resumed.stderr
    # Epochs have 5 steps; "epoch" goes back to step 10, 3 to step 12.
    first = 10 if save_freq == "epoch" else 12
    assert after[0][0] == first + 1
    if save_freq == "epoch":
        assert after == wanted[first:]
    else:
        # The running sums start again inside the epoch; steps and weights
        # are those of the run that was not killed.
        assert [line[0] for line in after] == [w[0] for w in wanted[first:]]
        assert after[3:] == wanted[first + 3 :]
