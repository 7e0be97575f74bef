"""Packs the model of a finished run as the trained weights of a preset.

    KERAS_BACKEND=jax python -m keras_dblocks.applications.vit \
        --preset vit_digits --output runs/vit_digits
    KERAS_BACKEND=jax python tools/package_preset.py runs/vit_digits vit_digits

The folder `applications/pretrained/NAME` gets the files of
`save_to_preset(by_block=True)`, small enough to be shipped: weights that have
moving averages are replaced by them, a classifier's stem takes pixels from 0
to 1 (what the data were standardised with becomes a part of its weights), and
every weight is rounded to a mantissa of 10 bits, so that the files, still
ordinary ones, are packed well. What the packed files reach is measured again
and added to the run's record as "packed".
"""

import argparse
import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications import ViT
from keras_dblocks.applications.data import load_images
from keras_dblocks.applications.recipes import PRETRAINED

EXCERPT = PRETRAINED / "austen_excerpt.txt"


def plain_copy(model):
    """The network without moving averages, which are its weights instead."""
    for block in model.blocks:
        block.take_averages()
    config = model.get_config()
    if "ema_momentum" in config:
        config["ema_momentum"] = None
    copy = type(model).from_config(config)
    copy.build()
    values = {weight.path: weight.numpy() for weight in model.weights}
    for weight in copy.weights:
        weight.assign(rounded(values[weight.path]))
    return copy


def rounded(values):
    """float32 values with the last 13 of 23 bits of the mantissa zero."""
    if values.dtype != np.float32:
        return values
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64) + (
        1 << 12
    )
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32)


def take_pixels(model, data):
    """Makes a classifier take pixels in [0, 1] instead of standardised ones."""
    dense = model.blocks[0].stem.patches.dense
    kernel, bias = (np.array(v.numpy(), "float64") for v in dense.weights)
    mean, std = (
        np.tile(v.astype("float64"), len(kernel) // len(v))
        for v in (data.mean, data.std)
    )
    kernel /= std[:, None]
    dense.bias.assign((bias - mean @ kernel).astype("float32"))
    dense.kernel.assign(kernel.astype("float32"))


def squeeze(path):
    """Packs the entries of a `.keras` archive."""
    beside = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, True, 9) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
    os.replace(beside, path)


def digits():
    """Test images from 0 to 1 `(360, 8, 8, 1)`, and their labels."""
    data = load_images("digits")
    return data.x_test * data.std + data.mean, data.y_test


def measure(model):
    """Figures by name (dict) of a packed model."""
    name = type(model).__name__
    if name == "ViT":
        x, y = digits()
        accuracy = np.mean(model.predict(x, verbose=0).argmax(-1) == y)
        return {"test accuracy": (100 * accuracy, "%")}
    if name == "DiT":
        labels = np.arange(200) % 10
        drawn = (model.generate(labels) + 1) / 2
        read = ViT.from_preset("vit_digits").predict(drawn, verbose=0)
        share = np.mean(read.argmax(-1) == labels)
        return {
            "200 drawn digits read as asked by vit_digits": (100 * share, "%")
        }
    found = model.evaluate(EXCERPT.read_text("utf-8"), return_dict=True)
    return {
        "cross-entropy of austen_excerpt.txt": (found["cross_entropy"], "nats")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", help="the preset's name")
    args = parser.parse_args()
    record = json.loads((args.run / "record.json").read_text())
    path = args.run / "model.keras"
    model = plain_copy(keras.saving.load_model(path, compile=False))
    if isinstance(model, ViT):
        take_pixels(model, load_images("digits"))
    for name, (value, unit) in measure(model).items():
        figure = {"value": round(float(value), 4), "unit": unit}
        record["figures"][f"packed: {name}"] = figure
    folder = PRETRAINED / args.name
    model.save_to_preset(folder, record, "apache-2.0", by_block=True)
    for path in folder.glob("*.keras"):
        squeeze(path)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB", record["figures"])


if __name__ == "__main__":
    main()
