"""The program of the text systems: trains, resumes, samples, generates."""

import functools
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from helpers import small_text
from helpers.small_text import write_text
from keras_dblocks.applications.data import Text8Tokenizer
from keras_dblocks.applications.mdm import MDM
from keras_dblocks.applications.program import main
from keras_dblocks.applications.program.text_picture import (
    revealed_by,
    save_unmasking,
)

pytestmark = pytest.mark.eager

TINY = {
    "description": "for tests",
    "config": {
        "sequence_length": 12,
        "hidden_dim": 16,
        "num_heads": 2,
        "num_layers": 2,
        "num_blocks": 2,
    },
    "training": {
        **MDM.presets["mdm_demo"]["training"],
        "epochs": 1,
        "batch_size": 8,
        "warmup_steps": 2,
    },
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(MDM, "presets", {"tiny": TINY})


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path)


run = functools.partial(small_text.run, MDM)


@pytest.mark.slow
def test_train_resume_and_generate(tmp_path, text, capsys):
    folder = tmp_path / "run"
    assert run(folder, text, "--tensorboard") == 0
    printed = capsys.readouterr().out
    assert printed.count("sample: ") == 2  # after each epoch
    bound = re.search(r"^test bound: ([\d.]+) bits per token$", printed, re.M)
    assert "test block 1 bound: " in printed
    record = json.loads((folder / "record.json").read_text())
    figure = record["figures"]["test bound"]
    assert figure["unit"] == "bits per token"
    assert figure["value"] == pytest.approx(float(bound[1]), rel=1e-3)
    assert record["settings"]["tokenizer"] == "text8"
    history = (folder / "history.csv").read_text().splitlines()
    assert len(history) == 3 and "val_block_1_loss" in history[0]
    (event,) = folder.glob("tensorboard/*")
    assert b"samples/text_summary" in event.read_bytes()
    assert run(folder, text) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(folder, text, "--resume") == 0
    capsys.readouterr()

    picture = tmp_path / "unmasking.png"
    options = ["--num-samples", "2", "--num-steps", "4", "--prompt", "Round"]
    model = folder / "model.keras"
    arguments = [
        "generate",
        "--model",
        model,
        "--trajectory",
        picture,
        *options,
    ]
    assert main(MDM, [str(a) for a in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(len(line) == 12 for line in lines)
    assert all(line.startswith("round") for line in lines)
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_twin_has_one_block(tmp_path, text, capsys):
    shorter = ["--steps-per-epoch", "2", "--train-examples", "9"]
    assert run(tmp_path / "run", text, "--layer-matched", *shorter) == 0
    # Two blocks, so two epochs; nine sequences of twelve tokens.
    printed = capsys.readouterr().out
    assert " on 108 tokens of rhyme: 2 epochs of 2 steps, 1 of 2" in printed
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert (model.num_blocks, model.num_layers) == (1, 1)


def test_refusals(tmp_path, text, capsys):
    other = tmp_path / "other.keras"
    x = keras.Input((2,))
    keras.Model(x, keras.layers.Dense(1)(x)).save(other)
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for arguments, wanted in (
        (["generate", "--model", other], "must hold a MDM"),
        (["--preset", "tiny", "--data", empty], "Received"),
        (["--preset", "tiny", "--data", "no such text"], "no such text"),
        (["--data", text, "--num-blocks", "3"], "num_blocks=3"),
    ):
        assert main(MDM, [str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert wanted in error and len(error.splitlines()) == 1, error


@pytest.mark.once
def test_picture_names_the_block_that_revealed(tmp_path):
    mask = 27
    states = [[mask] * 3, [mask, 5, mask], [mask, 5, 6], [4, 5, 6]]
    steps = [
        {"level": 1.0 - i / 3, "block": block, "noisy": np.array([before])}
        | {"denoised": np.array([after])}
        for i, (block, before, after) in enumerate(
            zip((0, 0, 1), states, states[1:], strict=False)
        )
    ]
    assert revealed_by(steps).tolist() == [1, 0, 0]
    save_unmasking(tmp_path / "a.png", steps, Text8Tokenizer(), 2, rows=3)
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.once
def test_help():
    module = "keras_dblocks.applications.mdm"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for word in ("mdm_text8", "--on-policy", "generate"):
        assert word in done.stdout
