"""The program of the recurrent depth: one block, its layers, and Huginn."""

import functools

import keras
import pytest

from helpers import small_text
from helpers.small_text import write_text
from keras_dblocks.applications.program import main
from keras_dblocks.applications.recurrent_depth import RecurrentDepth

pytestmark = pytest.mark.eager

TINY = {
    "description": "for tests",
    "config": {
        "sequence_length": 8,
        "hidden_dim": 16,
        "num_heads": 2,
        "prelude_layers": 1,
        "core_layers": 2,
        "coda_layers": 1,
    },
    "training": {
        **RecurrentDepth.presets["recurrent_demo"]["training"],
        "batch_size": 8,
        "warmup_steps": 2,
    },
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(RecurrentDepth, "presets", {"tiny": TINY})


run = functools.partial(small_text.run, RecurrentDepth)


@pytest.mark.slow
def test_train_and_generate(tmp_path, capsys):
    folder, text = tmp_path / "run", write_text(tmp_path)
    options = ["--num-layers", "1", "--steps-per-epoch", "2"]
    options += ["--on-policy", "0.5", "--tokenizer", "bytes"]
    assert run(folder, text, *options) == 0
    assert ": 1 epochs of 2 steps, 1 of 1 layers" in capsys.readouterr().out
    model = keras.saving.load_model(folder / "model.keras")
    assert model.core_layers == 1 and model.on_policy == 0.5
    arguments = ["generate", "--model", str(folder / "model.keras")]
    arguments += ["--num-samples", "1", "--num-steps", "2", "--prompt", "Rou"]
    assert main(RecurrentDepth, arguments) == 0
    assert capsys.readouterr().out.startswith("Rou")


@pytest.mark.slow  # half a minute; what it calls is tested elsewhere
def test_twin_is_huginn(tmp_path):
    folder, text = tmp_path / "run", write_text(tmp_path)
    options = ["--end-to-end", "--steps-per-epoch", "1"]
    assert run(folder, text, *options) == 0
    model = keras.saving.load_model(folder / "model.keras")
    assert type(model).__name__ == "Huginn"
