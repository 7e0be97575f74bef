"""The program of next-token prediction: block after block, text, a twin."""

import functools

import keras
import numpy as np
import pytest

from helpers import small_text
from helpers.small_ar import SIZES
from helpers.small_text import write_text
from keras_dblocks.applications.ar import ARTransformer
from keras_dblocks.applications.program import main

pytestmark = pytest.mark.eager

TINY = {
    "description": "for tests",
    "config": {**SIZES, "sequence_length": 8, "num_layers": 2, "num_blocks": 2},
    "training": {
        **ARTransformer.presets["ar_demo"]["training"],
        "batch_size": 8,
        "warmup_steps": 2,
    },
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(ARTransformer, "presets", {"tiny": TINY})


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path)


run = functools.partial(small_text.run, ARTransformer)


@pytest.mark.slow
def test_train_resume_and_generate(tmp_path, text, capsys):
    folder = tmp_path / "run"
    assert run(folder, text) == 0
    printed = capsys.readouterr().out
    assert printed.count("sample: ") == 2  # an epoch for each block
    # That after the last block is that of the model, printed once.
    assert "test cross-entropy: " in printed
    assert "test block 0 cross-entropy: " in printed
    assert "test block 1 cross-entropy" not in printed
    assert run(folder, text, "--resume") == 0
    capsys.readouterr()
    # Which block is trained when would change.
    assert run(folder, text, "--resume", "--epochs", "2") == 2
    assert "epochs=2 (was 1)" in capsys.readouterr().err
    model = keras.saving.load_model(folder / "model.keras")
    assert model.sharing == "targets"
    files = [folder / f"block_{i}.keras" for i in range(2)]
    again = ARTransformer.from_blocks(files)
    tokens = np.zeros((1, 8), "int32")
    np.testing.assert_allclose(
        again.predict(tokens, verbose=0), model.predict(tokens, verbose=0)
    )
    capsys.readouterr()
    arguments = ["generate", "--model", folder / "model.keras"]
    arguments += ["--num-samples", "2", "--prompt", "Rou"]
    assert main(ARTransformer, [str(a) for a in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("rou") for line in lines)
    written = tmp_path / "written" / "texts.txt"
    arguments += ["--output", written]
    arguments[2:3] = files  # in place of the whole model
    assert main(ARTransformer, [str(a) for a in arguments]) == 0
    assert written.read_text().splitlines() == lines


@pytest.mark.slow  # the program's twin rows are those of masked diffusion
def test_twin(tmp_path, text):
    assert run(tmp_path / "run", text, "--layer-matched") == 0
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert model.num_layers == 1 and not hasattr(model, "blocks")
