"""A file is whole, or it is the old one; what is neither is refused."""

import zipfile

import keras
import numpy as np
import pytest

from helpers.small_vit import make, python, refused, values
from keras_dblocks.applications import ViT
from keras_dblocks.files.file_format import VERSION


class DiskFull(OSError):
    pass


def fail(*args, **kwargs):
    raise DiskFull("No space left on device")


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "preset"])
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch, name):
    model = make()
    model.build()

    def save():
        if name == "preset":
            model.save_to_preset(tmp_path / name)
        elif name == "model.keras":
            model.save(tmp_path / name)
        else:
            model.save_weights(tmp_path / name)

    def contents():
        files = [f for f in tmp_path.rglob("*") if f.is_file()]
        return {file: file.read_bytes() for file in files}

    save()
    before = contents()
    # The last part of the last block: by then most of the file is written.
    monkeypatch.setattr(model.blocks[-1].head, "save_own_variables", fail)
    model.blocks[0].head.dense.bias.assign([9.0] * 4)
    with pytest.raises(DiskFull):
        save()
    assert contents() == before
    monkeypatch.undo()
    save()
    assert contents().keys() == before.keys()
    assert contents() != before


KILLED = """
import os, sys, zipfile, keras
import keras_dblocks.applications
path = sys.argv[1] + "/model.keras"
model = keras.saving.load_model(path)
model.blocks[0].head.dense.bias.assign([9.0] * 4)
write = zipfile.ZipFile.open
def killed(archive, name, mode="r", **kwargs):
    if mode == "w" and "weights" in str(getattr(name, "filename", name)):
        os._exit(9)  # like `kill -9`: nothing is tidied up
    return write(archive, name, mode, **kwargs)
zipfile.ZipFile.open = killed
model.save(path)
"""


@pytest.mark.heavy
def test_killed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "model.keras"
    make().save(path)
    before = path.read_bytes()
    assert python(KILLED, tmp_path).returncode == 9
    assert path.read_bytes() == before
    assert zipfile.ZipFile(path).testzip() is None
    # What the killed process was writing can be told from a whole file.
    (left,) = {f.name for f in tmp_path.iterdir()} - {"model.keras"}
    assert left.startswith(".")


def test_overwrite_false_keeps_the_file(tmp_path):
    model, path = make(), tmp_path / "model.keras"
    model.save(path, overwrite=False)  # nothing there yet
    before = path.read_bytes()
    model.blocks[0].head.dense.bias.assign([9.0] * 4)
    refused(lambda: model.save(path, overwrite=False), "overwrite=False")
    assert path.read_bytes() == before
    model.save(path)
    bias = keras.saving.load_model(path).blocks[0].head.dense.bias
    np.testing.assert_array_equal(values([bias])[0], [9.0] * 4)


def test_files_of_another_format_version_are_refused(tmp_path):
    model = make()
    for part, path in (
        (model, tmp_path / "model.keras"),
        (model.block(0), tmp_path / "block_0.keras"),
    ):
        part.save(path)
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        config = files["config.json"].decode()
        now = f'"format_version": {VERSION}'
        old = config.replace(now, '"format_version": 1')
        assert old != config
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                content = old if name == "config.json" else content
                archive.writestr(name, content)
        with pytest.raises(
            Exception, match=f"format version {VERSION}.*version 1"
        ):
            keras.saving.load_model(path)
    refused(lambda: model.load_block(tmp_path / "block_0.keras"), "version 1")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:3000] + b"\x00" * 500 + content[3500:],
        lambda content: b"not an archive",
    ],
    ids=["empty", "start", "half", "last byte", "overwritten", "text"],
)
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "block_0.keras"
    model = make()
    model.compile("adamw")
    model.block(0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    match = "block_0.keras.*cannot be read"
    refused(lambda: model.load_block(path), match, model)
    refused(lambda: ViT.from_blocks([path]), match)
