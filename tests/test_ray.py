"""Blocks trained by workers of Ray are those that one process trains."""

import json
import subprocess
import sys

import pytest

from helpers import on_ray as program
from helpers import small_mlp
from helpers.programs import environment
from keras_dblocks.ray import fit_blocks


def start(*arguments):
    """Runs a Python program that starts Ray; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment(
            # Workers give way to all others, the tests beside this one too.
            RAY_worker_niceness="0",
            RAY_AUTH_MODE="disabled",  # leaves no token in the home folder
            RAY_USAGE_STATS_ENABLED="0",
        ),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def run(folder, *scenarios):
    """What scenarios of the program found, one after another."""
    start(program.__file__, *scenarios, folder)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_workers_train_what_one_process_trains(tmp_path):
    independent = run(tmp_path, "independent")["independent"]
    assert independent["killed"]
    assert independent["difference"] == 0.0
    assert independent["moved"] > 1e-3
    assert independent["again"] == 0.0
    assert "A folder holds one run" in independent["other"]
    kept = {f"block_{i}{s}.keras" for i in range(3) for s in ("", "_start")}
    assert set(independent["files"]) == {*kept, "log", "settings.json"}


@pytest.mark.slow
def test_a_block_is_lost_and_blocks_hand_over(tmp_path):
    found = run(tmp_path, "lost", "pipeline", "pipeline_killed")
    lost = found["lost"]
    assert "block 1: OSError: No space left on device" in lost["error"]
    assert lost["kept"]
    assert lost["difference"] == 0.0

    pipeline = found["pipeline"]
    assert pipeline["first"]
    assert pipeline["read"]
    assert pipeline["loss"] < pipeline["before"]

    killed = found["pipeline_killed"]
    assert killed["killed"]
    assert killed["difference"] == 0.0
    assert killed["moved"] > 1e-3


@pytest.mark.slow
def test_a_worker_may_die_at_any_step(tmp_path):
    found = run(tmp_path, *(f"killed:{seed}" for seed in range(1, 11)))
    steps = {result["step"] for result in found.values()}
    assert len(steps) > 4
    assert all(result["difference"] == 0.0 for result in found.values())


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    module = "-m", "keras_dblocks.applications.vit"
    options = "--preset vit_digits --train-examples 128 --epochs 1".split()
    options += ["--blocks-on-ray", "--workers", "2", "--output", tmp_path]
    printed = start(*module, *options)
    assert "test accuracy" in printed
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["finished"]
    files = {path.name for path in tmp_path.glob("*.keras")}
    assert files == {"model.keras", *(f"block_{i}.keras" for i in range(3))}
    again = start(*module, *options, "--resume")
    assert again.splitlines()[-1] == printed.splitlines()[-1]


def test_what_cannot_be_trained_apart_is_refused(tmp_path):
    data = small_mlp.data(8)

    def refused(match, model, data=data, **kwargs):
        folder = tmp_path / "run"
        small_mlp.refused(
            lambda: fit_blocks(model, data, storage_path=folder, **kwargs),
            match,
        )
        assert not folder.exists()

    shared = small_mlp.three_blocks()
    shared.compile("adamw", on_policy=0)
    refused('sharing="targets"', shared)
    model = small_mlp.three_blocks(sharing="targets")
    refused("not compiled", model)
    refused("`DiffusionBlocks`", model.end_to_end())
    model.compile("adamw", curriculum="in_sequence")
    refused("a curriculum", model)
    model.compile("adamw", on_policy=0)
    refused("refresh_every=2", model, refresh_every=2)
    refused("`epochs`", model, epochs=0)
    model.compile("adamw")
    refused("3 for 2 steps", model, refresh_every=3, epochs=2)
    model.compile("adamw", on_policy=0, block_order=1)
    refused("block_order=1", model)
    model.compile("adamw", on_policy=0)
    refused("(?i)labels", model, (data[0], data[1] + 9))
    refused("Pass arrays", model, iter([data]))
    (tmp_path / "found").mkdir()
    model.block(0).save(tmp_path / "found" / "block_0.keras")
    small_mlp.refused(
        lambda: fit_blocks(model, data, storage_path=tmp_path / "found"),
        "no settings.json",
    )
    model.blocks[1].trainable = False
    refused("block 1", model)


def test_an_address_where_no_cluster_answers(tmp_path):
    model = small_mlp.three_blocks(sharing="targets")
    model.compile("adamw", on_policy=0)
    with pytest.raises(ConnectionError, match="where none answers"):
        fit_blocks(
            model,
            small_mlp.data(8),
            storage_path=tmp_path / "run",
            address="127.0.0.1:1",
        )
    assert not (tmp_path / "run").exists()
