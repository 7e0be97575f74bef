"""Several PyTorch processes train one model as one process would."""

import json
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from helpers import several_processes as program
from helpers.programs import environment

if keras.backend.backend() != "torch":
    pytest.skip("torchrun starts PyTorch's processes", allow_module_level=True)


def launch(scenarios, folder):
    """Runs scenarios in two processes; returns the finished launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", program.__file__, scenarios, folder]
    return subprocess.run(
        list(map(str, command)),
        env=environment(KERAS_BACKEND="torch"),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the scenarios leave that no process dies in."""
    folder = tmp_path_factory.mktemp("processes")
    done = launch("equal,files,refusals", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def results(scenario, folder):
    paths = [folder / f"{scenario}-{i}.json" for i in range(2)]
    return [json.loads(path.read_text()) for path in paths]


def test_two_processes_are_one_with_the_joined_batch(folder):
    found = results("equal", folder)
    assert found[0] == found[1]  # the same weights everywhere
    for name in program.NAMES:
        losses, norm = program.train(
            name, program.joined(name), 2 * program.ROWS
        )
        assert len(losses) == program.STEPS
        np.testing.assert_allclose(found[0][name][0], losses, rtol=1e-5)
        np.testing.assert_allclose(found[0][name][1], norm, rtol=1e-5)


def test_what_would_go_wrong_silently_is_refused(folder):
    for found in results("refusals", folder):
        assert "as many rows in a step" in found["uneven"]
        assert "a number of steps of its own" in found["steps"]
        assert "a network of its own" in found["network"]
        assert "trained in one process" in found["alone"]
        assert "inside of a DistributedDataParallel" in found["wrapped"]


def test_process_0_writes_and_all_decide_alike(folder):
    first, second = results("files", folder)
    assert first == second
    assert len(first["loss"]) == 2  # all stopped, and none waits
    names = {path.name for path in folder.iterdir()}
    assert {"log.csv", "best.keras", "saved-by-0.keras"} <= names
    assert "saved-by-1.keras" not in names
    lines = (folder / "log.csv").read_text().splitlines()
    assert len(lines) == 3


def test_a_process_that_dies_ends_the_run_and_keeps_its_state(tmp_path):
    begin = time.monotonic()
    done = launch("killed", tmp_path)
    assert done.returncode != 0
    assert time.monotonic() - begin < 120  # starting takes half of it
    kept = json.loads(
        (tmp_path / "backup" / "training_metadata.json").read_text()
    )
    assert kept["epoch"] == 1
    assert list((tmp_path / "backup").glob("*.weights.h5"))
