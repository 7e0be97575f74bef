"""The train program of DiT: trains, resumes, draws, generates."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_dblocks.applications import DiT
from keras_dblocks.applications.images import latents
from keras_dblocks.applications.images.pictures import (
    grid_of,
    save_grid,
    save_trajectory,
)
from keras_dblocks.applications.program import command, main
from keras_dblocks.applications.program import generator_run as program
from keras_dblocks.applications.program.generate_images import read_labels

pytestmark = pytest.mark.eager

TINY = {
    "description": "for tests",
    "config": {
        "image_size": 8,
        "num_classes": 10,
        "channels": 1,
        "patch_size": 4,
        "hidden_dim": 12,
        "num_heads": 2,
        "num_layers": 2,
        "num_blocks": 2,
    },
    "training": {
        **DiT.presets["dit_digits"]["training"],
        "epochs": 1,
        "batch_size": 32,
    },
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(DiT, "presets", {"tiny": TINY})
    monkeypatch.setattr(program.GeneratorRun, "num_samples", 20)
    monkeypatch.setattr(program, "FEATURE_STEPS", 10)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def run(folder, *more):
    arguments = ["--preset", "tiny", "--train-examples", "64", "--output"]
    return main(DiT, [*arguments, str(folder), *more])


def generate(*arguments):
    return main(DiT, ["generate", *map(str, arguments)])


def test_train_resume_and_generate(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(folder, "--tensorboard") == 0
    text = capsys.readouterr().out
    assert "Frechet distance of 20 images" in text
    # Two epochs of blocks, one picture each, four rows of ten classes.
    pictures = sorted(folder.glob("samples/*.png"))
    assert [p.name for p in pictures] == ["epoch_0001.png", "epoch_0002.png"]
    assert pixels(pictures[0]).shape == (8 * 4 * 4, 8 * 4 * 10)
    for name in ("grid.png", "trajectory.png"):
        assert pixels(folder / name).shape[1] > 100
    history = (folder / "history.csv").read_text().splitlines()
    assert len(history) == 3 and "val_block_1_loss" in history[0]
    (event,) = folder.glob("tensorboard/*")
    assert b"samples" in event.read_bytes()
    assert run(folder) == 2  # a folder of its own
    assert "--resume" in capsys.readouterr().err
    assert run(folder, "--resume") == 0

    model = keras.saving.load_model(folder / "model.keras")
    files = [folder / "model.keras"]
    blocks = [folder / f"block_{i}.keras" for i in range(2)]
    options = ["--labels", "0-2,7", "--num-steps", "3"]
    made = []
    for number, paths in enumerate((files, blocks)):
        out = tmp_path / f"{number}.png"
        assert generate("--model", *paths, "--output", out, *options) == 0
        made.append(pixels(out))
    np.testing.assert_array_equal(*made)
    images = model.generate([0, 1, 2, 7], num_steps=3)
    wanted = np.round((grid_of(images, 4) + 1) * 127.5)[..., 0]
    seen = made[0][::4, ::4].astype("float32")
    np.testing.assert_allclose(seen, wanted, atol=1.0)


def test_by_default_each_class_is_drawn(tmp_path):
    model = DiT(**{**TINY["config"], "num_classes": 3})
    (tmp_path / "whole").mkdir()
    model.save(tmp_path / "whole" / "model.keras")
    blocks = [tmp_path / f"block_{i}.keras" for i in range(2)]
    for block, path in zip(model.blocks, blocks, strict=True):
        block.save(path)
    for paths in ([tmp_path / "whole"], blocks, [tmp_path]):
        out = tmp_path / "out.png"
        steps = "--num-steps", "2"
        assert generate("--model", *paths, "--output", out, *steps) == 0
        assert pixels(out).shape == (8 * 4, 8 * 4 * 3)


def test_no_image_need_be_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "train", lambda run, *_: None)
    assert run(tmp_path, "--samples", "0") == 0
    assert "Frechet" not in capsys.readouterr().out


def test_generate_refuses(tmp_path, capsys):
    assert read_labels("3,0-2") == [3, 0, 1, 2]
    model = tmp_path / "model.keras"
    DiT(**TINY["config"]).save(model)
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other.keras"
    x = keras.Input((2,))
    keras.Model(x, keras.layers.Dense(1)(x)).save(other)
    for arguments, wanted in (
        (["--model", model, "--labels", "a"], "`--labels` must be"),
        (["--model", model, "--labels", "11"], "11 to 11"),
        (["--model", model, "--output", model / "a.png"], "be written"),
        (["--model", other], "must hold a DiT"),
        (["--model", tmp_path / "none.keras"], "none.keras"),
        (["--model", empty], "must hold model.keras or block_0.keras"),
        (["--model", model, model, "--trajectory", "t.png"], "whole model"),
    ):
        assert generate(*arguments) == 2
        error = capsys.readouterr().err
        assert wanted in error and len(error.splitlines()) == 1, error


@pytest.mark.slow  # half a minute; what it calls is tested elsewhere
def test_twin_rows_are_dits_with_one_block(tmp_path):
    for row, layers in (("--end-to-end", 2), ("--layer-matched", 1)):
        folder = tmp_path / row
        assert run(folder, row) == 0
        model = keras.saving.load_model(folder / "model.keras")
        assert (model.num_blocks, model.num_layers) == (1, layers)
        settings = json.loads((folder / "settings.json").read_text())
        assert settings["row"] == row[2:].replace("-", "_")


@pytest.mark.once
def test_pictures(tmp_path):
    images = np.linspace(-1, 1, 3 * 4).reshape(3, 2, 2, 1)
    grid = grid_of(images, 2)
    assert grid.shape == (4, 4, 1)
    np.testing.assert_allclose(grid[:2, 2:], images[1], atol=1e-6)
    np.testing.assert_array_equal(grid[2:, 2:], -1.0)
    save_grid(tmp_path / "grid.png", 9 * images, columns=2, zoom=3)
    seen = pixels(tmp_path / "grid.png")
    assert seen.shape == (12, 12) and (seen.min(), seen.max()) == (0, 255)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    step = {"level": 80.0, "block": 0, "noisy": images, "denoised": images}
    save_trajectory(tmp_path / "path.png", [step] * 12, example=2, columns=5)
    assert pixels(tmp_path / "path.png").shape[1] > 400


@pytest.mark.once
@pytest.mark.parametrize("command", [["--help"], ["generate", "--help"]])
def test_help(command):
    module = "keras_dblocks.applications.dit"
    done = subprocess.run(
        [sys.executable, "-m", module, *command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for word in ("generate", "default: ", "--seed"):
        assert word in done.stdout


@pytest.mark.slow  # half a minute; what it calls is tested elsewhere
def test_latents_from_images_to_training(tmp_path, monkeypatch, capsys):
    class Halved:
        """A VAE of one layer: 2x2 pixels to 4 channels, and back."""

        def encode(self, images):
            return keras.layers.Reshape((4, 4, 4))(images)

    monkeypatch.setattr(latents, "load_vae", lambda name: Halved())
    path = tmp_path / "latents.npy"
    assert latents.main(["--data", "digits", "--output", str(path)]) == 0
    config = {**TINY["config"], "value_range": None, "patch_size": 2}
    monkeypatch.setitem(DiT.presets, "tiny", {**TINY, "config": config})
    folder = tmp_path / "run"
    assert run(folder, "--data", str(path)) == 0
    printed = capsys.readouterr().out
    assert "grid.png" in printed and "Frechet" not in printed
    model = keras.saving.load_model(folder / "model.keras")
    assert (model.image_size, model.channels) == (4, 4)
    # About unit noise of the data's scale, not clipped to [-1, 1].
    made = model.generate(np.arange(10), num_steps=4)
    assert made.shape == (10, 4, 4, 4)
    assert run(tmp_path / "none", "--data", str(tmp_path / "no.npy")) == 2
    assert "--help" in capsys.readouterr().err
