"""The train program and the demo, run for real with tiny settings."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from helpers.programs import ROOT
from keras_dblocks import compat
from keras_dblocks.applications.data import load_images
from keras_dblocks.applications.program import command, main
from keras_dblocks.applications.program.classifier_run import ClassifierRun
from keras_dblocks.applications.program.run import ROWS
from keras_dblocks.applications.program.time_left import TimeLeft
from keras_dblocks.applications.vit import ViT

PROGRAM = [sys.executable, "-m", "keras_dblocks.applications.vit"]

TINY = {
    "description": "for tests",
    "config": {
        "patch_size": 4,
        "hidden_dim": 12,
        "num_heads": 2,
        "num_layers": 2,
        "num_blocks": 2,
    },
    "training": {
        "data": "digits",
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "warmup_epochs": 1,
        "alpha": 0.05,
        "weight_decay": 0.01,
        "clipnorm": 1.0,
        "augmentation": "none",
    },
}

# Of other packages: protobuf and TFDS.
pytestmark = [
    pytest.mark.eager,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ViT.presets, "tiny", TINY)


def run_main(folder, *arguments):
    images = [] if "--data" in arguments else ["--train-examples", "96"]
    output = ["--output", str(folder)]
    return main(ViT, ["--preset", "tiny", *output, *images, *arguments])


def error_line(capsys):
    """What was written to stderr: one line."""
    line = capsys.readouterr().err
    assert line.endswith("\n") and line.count("\n") == 1
    return line


def logits_of(path):
    model = keras.saving.load_model(path)
    return model.predict(load_images("digits").x_test, verbose=0)


def log_of(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def make_run(row, **recipe):
    config = {**TINY["config"], "image_size": 8, "channels": 1}
    config.update(num_classes=10, seed=0)
    recipe = {**TINY["training"], **recipe}
    return ClassifierRun(ViT, config, recipe, load_images("digits"), row)


# Training.


class Photograph(keras.callbacks.Callback):
    """Copies what a kill would leave: epoch 1 is logged, not backed up."""

    def __init__(self, folder, copy):
        super().__init__()
        self.folder = folder
        self.copy = copy

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            shutil.copytree(self.folder, self.copy)


def run_and_photograph(folder, *arguments):
    """Runs in `folder / "whole"`; `folder / "killed"` is its photograph."""
    fit = ClassifierRun.fit
    photograph = Photograph(folder / "whole", folder / "killed")

    def fit_and_photograph(run, callbacks, **kwargs):
        *others, backup = callbacks
        return fit(run, [*others, photograph, backup], **kwargs)

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassifierRun, "fit", fit_and_photograph)
        patch.setitem(ViT.presets, "tiny", TINY)
        with contextlib.redirect_stdout(printed):
            assert run_main(folder / "whole", "--epochs", "2", *arguments) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run of blocks and of its photograph; what it printed."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run_and_photograph(folder, "--tensorboard")


def test_blocks_are_trained_saved_and_scored(trained):
    folder, printed = trained[0] / "whole", trained[1]
    assert "4 epochs of 3 steps, 1 of 2 layers a step, 12 layer" in printed
    blocks = [folder / f"block_{i}.keras" for i in range(2)]
    logits = logits_of(folder / "model.keras")
    data = load_images("digits")
    again = ViT.from_blocks(blocks).predict(data.x_test, verbose=0)
    np.testing.assert_allclose(again, logits, atol=1e-5)
    accuracy = 100 * np.mean(logits.argmax(-1) == data.y_test)
    assert f"\ntest accuracy: {accuracy:.4g} %\n" in printed
    assert printed.count("\ntest accuracy after block ") == 1  # the first

    log = log_of(folder)
    assert [row["epoch"] for row in log] == ["0", "1", "2", "3"]
    assert float(log[-1]["val_accuracy"]) == pytest.approx(accuracy / 100)
    assert {"loss", "block_0_loss", "block_1_loss", "val_loss"} <= set(log[0])


def resume_and_compare(folder, *arguments):
    whole, killed = folder / "whole", folder / "killed"
    assert len(log_of(killed)) == 2
    arguments = ["--epochs", "2", *arguments, "--resume"]
    assert run_main(killed, *arguments) == 0
    assert log_of(killed) == log_of(whole)
    np.testing.assert_array_equal(
        logits_of(killed / "model.keras"), logits_of(whole / "model.keras")
    )


def curves_of(folder):
    found = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    tags = found.Reload().Tags()["scalars"]
    return {t: [(e.step, e.value) for e in found.Scalars(t)] for t in tags}


def test_a_killed_run_is_resumed(trained):
    resume_and_compare(trained[0], "--tensorboard")
    curves = curves_of(trained[0] / "whole")
    assert curves_of(trained[0] / "killed") == curves
    assert [step for step, _ in curves["blocks/drawn"]] == [*range(1, 13)]
    log = log_of(trained[0] / "whole")
    _, last = curves["validation/accuracy_after_block_1"][-1]
    assert last == pytest.approx(float(log[-1]["val_accuracy"]))


def test_tensorboard_needs_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert run_main(tmp_path / "run", "--tensorboard") == 2
    assert "keras-dblocks[tensorboard]" in error_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_twin_is_resumed(tmp_path):
    run_and_photograph(tmp_path, "--end-to-end")
    resume_and_compare(tmp_path, "--end-to-end")
    before = log_of(tmp_path / "killed")
    arguments = ["--epochs", "2", "--end-to-end", "--resume"]
    assert run_main(tmp_path / "killed", *arguments) == 0  # nothing to do
    assert log_of(tmp_path / "killed") == before


def test_a_folder_with_another_run_is_refused(trained, capsys):
    folder = trained[0] / "whole"
    before = (folder / "model.keras").stat().st_mtime_ns
    assert run_main(folder, "--epochs", "2") == 2
    assert "holds one. Pass --resume" in error_line(capsys)
    assert run_main(folder, "--epochs", "2", "--resume", "--seed", "1") == 2
    assert "seed=1 (was 0)" in error_line(capsys)
    assert (folder / "model.keras").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_is_lengthened(trained, tmp_path, capsys):
    """The weights go on; the rate follows the schedule of the new length."""
    folder = tmp_path / "longer"
    shutil.copytree(trained[0] / "whole", folder)
    before = log_of(folder)
    assert run_main(folder, "--epochs", "3", "--resume") == 0
    assert "lengthened from 2 to 3 epochs" in capsys.readouterr().out
    log = log_of(folder)
    assert [row["epoch"] for row in log] == list("012345")
    assert log[:4] == before
    model = keras.saving.load_model(folder / "model.keras")
    assert model.training_step() == 18
    rate = compat.schedule(model.optimizer.parts[0])
    assert float(rate(9)) == pytest.approx(5e-4)  # at its end only
    assert float(rate(8)) > 6e-4
    assert run_main(folder, "--epochs", "2", "--resume") == 2
    assert "epochs=2 (was 3)" in error_line(capsys)


def test_epochs_are_shortened():
    run = make_run("blocks", epochs=3, steps_per_epoch=2, on_policy=0.5)
    assert run.num_steps == 2 * 3 * 2 and run.model.on_policy == 0.5
    assert ": 6 epochs of 2 steps," in run.describe()


def test_the_record_of_a_run(trained):
    record = json.loads((trained[0] / "whole" / "record.json").read_text())
    assert "python -m keras_dblocks.applications.vit" in record["command"]
    assert record["finished"] and record["seed"] == 0
    backend = keras.backend.backend()
    assert record["backend"] == backend
    for name in ("keras", "numpy", backend):
        assert record["versions"][name] == sys.modules[name].__version__
    hardware = record["hardware"]
    assert hardware["cpu"] and hardware["cpu_count"] >= 1
    assert isinstance(hardware["gpus"], list)
    git = ["git", "rev-parse", "--short", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    assert (record["commit"] or "").startswith(head)
    figures = record["figures"]
    assert figures["duration"]["value"] > 0
    assert figures["duration"]["unit"] == "s"
    printed = trained[1]
    accuracy = figures["test accuracy"]
    assert f"test accuracy: {accuracy['value']:.4g} %\n" in printed
    assert accuracy["unit"] == "%"


def test_rows_take_equal_layer_evaluations_and_end_their_schedule():
    evaluations = set()
    for row in ROWS:
        run = make_run(row, epochs=3)
        evaluations.add(run.num_steps * run.num_layers)
        optimizer = run.model.optimizer
        steps = run.num_steps
        if row in ("blocks", "paper"):
            assert run.model.reference == (row == "paper")
            assert run.model.on_policy == (row == "blocks")
            optimizer = optimizer.parts[0]
            steps //= 2
        rate = compat.schedule(optimizer)
        assert float(rate(0)) == 0
        assert float(rate(steps // 3)) == pytest.approx(1e-2)  # 1 of 3 epochs
        assert float(rate(steps)) == pytest.approx(5e-4)
    assert len(evaluations) == 1


def test_reference_changes_model_and_recipe(tmp_path, monkeypatch):
    preset = {**TINY, "reference_training": {"batch_size": 48}}
    monkeypatch.setitem(ViT.presets, "tiny", preset)
    runs = []
    monkeypatch.setattr(command, "train", lambda run, *_: runs.append(run))
    monkeypatch.setattr(ClassifierRun, "results", lambda run, _: {})
    assert run_main(tmp_path, "--reference", "--learning-rate", "0.1") == 0
    assert runs[0].model.reference and runs[0].model.on_policy == 0
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["reference"] and settings["batch_size"] == 48
    assert settings["learning_rate"] == 0.1


def test_images_of_a_user(tmp_path, monkeypatch, capsys):
    """What the page of ViT says of one's own images, and its Python runs."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("dog", "cat"):
        folder = tmp_path / "my_images" / name
        folder.mkdir(parents=True)
        for i in range(1, 6):
            pixels = generator.integers(0, 256, (68, 68, 3), "uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")
    assert run_main("runs/mine", "--data", "my_images") == 0
    printed = capsys.readouterr().out
    assert "8 images of my_images in patches of 17 x 17 pixels: " in printed
    assert printed.endswith("%\nclasses: 0 cat, 1 dog\n")

    page = (ROOT / "applications" / "vit" / "README.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1]
    names = {}
    exec(code, names)
    x = load_images("my_images").x_train[:1]  # the page's image
    np.testing.assert_allclose(names["x"], x, atol=1e-5)
    name = ("cat", "dog")[names["model"].predict(x, verbose=0).argmax()]
    assert capsys.readouterr().out.endswith(f"{name}\n")


def test_patches_are_the_presets_or_those_asked_for(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(command, "train", lambda run, *_: runs.append(run))
    monkeypatch.setattr(ClassifierRun, "results", lambda run, _: {})
    assert run_main(tmp_path, "--patch-size", "2") == 0
    assert runs[0].model.patch_size == 2
    data = dataclasses.replace(
        load_images("digits"), x_train=np.zeros((1, 64, 64, 3))
    )
    for name, changed in (("tiny_imagenet", {}), ("x.npz", {"patch_size": 8})):
        sizes = ClassifierRun.sizes_of(data, {"data": name}, {"patch_size": 2})
        wanted = {"image_size": 64, "channels": 3, "num_classes": 10}
        assert sizes == {**wanted, **changed}


@pytest.mark.slow
def test_cifar100_is_read_through_tfds(tmp_path, capsys):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=40):
        assert run_main(tmp_path, "--data", "cifar100", "--layer-matched") == 0
    assert "on 40 images of cifar100: 2 epochs" in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 100)
    names = {layer.name for layer in model.layers}
    assert "layer_0" in names and "layer_1" not in names
    assert not list(tmp_path.glob("block_*"))


# Refusals.


@pytest.mark.once
def test_data_that_cannot_be_downloaded(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow_datasets")
    import requests

    def no_network(*args, **kwargs):
        raise requests.ConnectionError("Name or service not known\n")

    monkeypatch.setattr(requests, "head", no_network)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    folder = tmp_path / "run"
    assert run_main(folder, "--data", "cifar100") == 2
    line = error_line(capsys)
    assert "cifar100" in line and ".npz" in line
    assert not folder.exists()


@pytest.mark.slow
def test_a_missing_file_from_the_shell(tmp_path):
    done = subprocess.run(
        [*PROGRAM, "--data", "none.npz"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    if keras.backend.backend() != "tensorflow":  # which logs when imported
        assert len(lines) == 1
    assert lines[-1].startswith("error: ") and "none.npz" in lines[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num-layers", "4", "--num-blocks", "3"], "must divide"),
        (["--data", "nothing"], 'Received: "nothing"'),
        (["--data", "wide.npz"], "(N, 8, 8, 1)"),
        (["--data", "odd.npz"], "must divide `image_size`"),
        (["--patch-size", "3"], "choose `patch_size` among [1, 2, 4, 8]"),
    ],
)
def test_settings_that_do_not_fit(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, shape in (("wide", (8, 12)), ("odd", (9, 9))):
        x, y = np.zeros((4, *shape), "uint8"), np.arange(4)
        np.savez(name, x_train=x, y_train=y, x_test=x, y_test=y)
    assert run_main("run", *arguments) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "many"],
        ["--on-policy", "2"],
        ["--preset", "none"],
        ["--end-to-end", "--layer-matched"],
        ["predict"],
    ],
)
def test_arguments_that_cannot_be_read(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        run_main(tmp_path, *arguments)
    assert exit.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.quick
@pytest.mark.once
def test_help_says_what_can_be_asked(capsys):
    with pytest.raises(SystemExit) as exit:
        main(ViT, ["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for word in (*ViT.presets, "python -m keras_dblocks.applications.vit demo"):
        assert word in text
    options = re.split(r"\n  (?=-)", text[: text.index("\nexamples:")])[2:]
    assert len(options) > 14
    for option in options:
        assert "(default:" in " ".join(option.split()), option


# Interrupted, and not in a terminal.

SMALL = ["--num-layers", "2", "--num-blocks", "2", "--train-examples", "96"]


@contextlib.contextmanager
def interrupts():
    """What is started here takes interrupts, even in a background job.

    A handler of Python's becomes the default one in a new program; an ignored
    signal would stay ignored. (`preexec_fn` would fork, which JAX warns of.)
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(process):
    """What a process prints after Ctrl-C; it does not outlive the test."""
    try:
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_ctrl_c_says_in_one_line_how_to_go_on(tmp_path):
    arguments = [*SMALL, "--epochs", "1000", "--output", "run"]
    with interrupts():
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )
    for line in process.stdout:
        if re.match("epoch (?!1 of)", line):  # a line each ten seconds
            break
    printed, errors = interrupted(process)
    assert process.returncode == 130, errors
    assert "Traceback" not in printed + errors
    assert errors.splitlines()[-1] == (
        "interrupted; to go on from the last complete epoch: KERAS_BACKEND="
        f"{keras.backend.backend()} python -m keras_dblocks.applications.vit "
        f"{' '.join(arguments)} --resume"
    )
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert not record["finished"]
    assert list(record["figures"]) == ["duration"]
    assert (tmp_path / "run" / "backup").exists()


def test_plain_lines_where_there_is_no_terminal(trained):
    printed = trained[1]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed)
    assert re.search(
        r"^epoch 1 of 4, step 1 of 3: .*, compiling$", printed, re.M
    )
    assert re.search(
        r"^epoch 4 of 4, step 3 of 3: block 0 loss [\d.]+, block 1 loss "
        r"[\d.]+, 0:00:\d\d left$",
        printed,
        re.M,
    )
    assert printed.count(": val accuracy ") == 4
    lines = printed.splitlines()
    assert len(lines) == len(set(lines))


@pytest.mark.slow
def test_a_bar_in_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *SMALL, "--epochs", "1", "--output", "run"],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
    )
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # the end of what is printed
        while part := os.read(ours, 4096):
            printed += part
    os.close(ours)
    assert process.wait() == 0
    assert b"\x1b[" in printed and b" left " in printed
    assert b"\rtest accuracy: " in printed.replace(b"\n", b"\r")


@pytest.mark.once
def test_time_left_leaves_out_what_compiles():
    left = TimeLeft(epochs=3, steps_per_epoch=4, compilations=2)
    left.steps.add(10.0)
    left.steps.add(0.5)
    assert left.after(epoch=0, step=2) is None
    left.steps.add(20.0)  # the second block, drawn later
    assert left.after(epoch=0, step=3) == pytest.approx(9 * 0.5)
    left.steps.add(0.7)
    assert left.after(epoch=0, step=4) == pytest.approx(8 * 0.6)
    left.ends.add(7.0)  # compiles the validation
    assert left.after(epoch=1, step=0) == pytest.approx(8 * 0.6)
    left.ends.add(0.1)
    assert left.after(epoch=2, step=1) == pytest.approx(3 * 0.6 + 0.1)


@pytest.mark.once
def test_an_output_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_main(tmp_path / "file" / "run") == 2
    line = error_line(capsys)
    assert "can be written" in line and "another --output" in line
    folder = tmp_path / "demo"
    folder.touch()
    arguments = ["demo", "--preset", "tiny", "--output", str(folder)]
    assert main(ViT, arguments) == 2
    assert "can be written" in error_line(capsys)


def test_on_policy_noise_is_not_for_twins(tmp_path, capsys):
    assert run_main(tmp_path, "--end-to-end", "--on-policy", "1") == 2
    assert "Leave it out" in error_line(capsys)


# The demo.


def test_demo_compares_saves_and_draws(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    images = ["--train-examples", "96"]
    assert main(ViT, ["demo", "--preset", "tiny", *images]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "tiny"
    record = json.loads((folder / "record.json").read_text())
    assert record["command"].endswith(
        "vit demo --preset tiny " + " ".join(images)
    )
    assert {path.name for path in folder.iterdir()} == {
        "block_0.keras",
        "block_1.keras",
        "model.keras",
        "record.json",
        "report.png",
    }
    assert (folder / "report.png").read_bytes()[1:4] == b"PNG"
    for row in ("DiffusionBlocks", "end-to-end twin", "layer-matched twin"):
        assert f"│ {row} " in printed
    assert printed.count("after block 0 ") == 1
    logits = logits_of(folder / "model.keras")
    accuracy = np.mean(logits.argmax(-1) == load_images("digits").y_test)
    assert f"{100 * accuracy:.2f} " in printed
    figure = record["figures"]["DiffusionBlocks, test accuracy"]
    assert figure == {"value": pytest.approx(100 * accuracy), "unit": "%"}
    assert printed.count("same predictions") == 3
    assert "one in memory at a time" in printed
    assert "of its activations and gradients in a step" in printed
    for row in ("DiffusionBlocks", "end-to-end twin"):
        for name in ("memory of a step", "optimizer state", "time of a step"):
            assert record["figures"][f"{row}, {name}"]["value"] > 0
