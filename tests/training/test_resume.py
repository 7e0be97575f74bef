"""Killed at any step and resumed: the same losses as if never killed."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from helpers import killed_run
from helpers.programs import environment


def killed(folder, *arguments):
    """Runs it in a process that dies; returns what its steps noted."""
    result = subprocess.run(
        [sys.executable, killed_run.__file__, folder, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(PYTHONWARNINGS="ignore"),
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    lines = result.stdout.splitlines()
    return [json.loads(line) for line in lines if line[:1] == "["]


@pytest.mark.parametrize(
    ("save_freq", "which"),
    [
        pytest.param("epoch", "all", marks=pytest.mark.slow),
        (3, "all"),
        pytest.param("epoch", "block", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_to_the_last_bit(tmp_path, save_freq, which):
    """In another process than the one that died, and than a run to its end."""
    wanted, weights = killed_run.run(tmp_path / "whole", 0, save_freq, which)
    before = killed(tmp_path / "killed", 13, save_freq, which)
    assert before == wanted[:13]
    after, again = killed_run.run(tmp_path / "killed", 0, save_freq, which)
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
    for one, other in zip(again, weights, strict=True):
        np.testing.assert_array_equal(one, other)
