"""Presets, which are named constructor keywords or folders on disk."""

import json
import os

import keras

from keras_dblocks import processes
from keras_dblocks.files import model_card
from keras_dblocks.files.atomic_files import written_beside
from keras_dblocks.models import assembly

CONFIG_FILE = "config.json"
RECORD_FILE = "record.json"
WEIGHTS_FILE = "model.weights.h5"
BLOCK_FILE = "block_{}.keras"


def load(cls, preset, load_weights=None, **kwargs):
    """Makes a model of class `cls` from a preset.

    Args:
        cls: subclass of `DiffusionBlocks`; its `presets` attribute maps names
            to dicts with `config`, `description`, and where something trained
            comes with them `weights`, the path of its folder.
        preset: str. A name in `cls.presets`, or the path of a folder written
            by `save_to_preset`.
        load_weights: bool, or None to load what there is.
        kwargs: constructor keywords that replace the preset's.

    Raises:
        ValueError: if `preset` is neither a known name nor such a folder, if
            it has no weights and `load_weights` is True, or if it has some
            that do not fit `kwargs`.
    """
    named, folder = _find(cls, preset)
    if named and (load_weights is False or folder is None):
        if load_weights:
            raise ValueError(
                "`load_weights=True` needs a preset that comes with weights. "
                f"Received: {preset!r}, which has none. Leave `load_weights` "
                f"out, and train it: `{named['command']}`."
            )
        return cls(**{**named["config"], **kwargs})
    network = _without_weights(cls, folder)
    config = network.get_config()
    if {"num_layers", "num_blocks"} & set(kwargs):
        config["layers_per_block"] = None  # equal ones, if not in `kwargs`
    model = cls.from_config({**config, **kwargs})
    if load_weights is False:
        return model
    path = os.path.join(folder, WEIGHTS_FILE)
    if os.path.exists(path):
        model.build()
        model.load_weights(path)
        return model
    paths = _block_files(folder, network.num_blocks)
    stored = assembly.from_blocks(cls, _all_there(paths, preset))
    return _with_weights_of(stored, model, preset) if kwargs else stored


def _find(cls, preset):
    """A preset's entry in `cls.presets` (or `{}`), and its folder or None."""
    named = getattr(cls, "presets", {}).get(str(preset), {})
    return named, named.get("weights", None if named else str(preset))


def _without_weights(cls, folder):
    """The network of a preset's folder, without its weights."""
    path = os.path.join(folder, CONFIG_FILE)
    if not os.path.exists(path):
        raise ValueError(
            "`preset` must be a known name or a folder with a "
            f"{CONFIG_FILE}. Received: {folder!r}. Use one of "
            f"{sorted(getattr(cls, 'presets', {}))}, or a folder from "
            "`save_to_preset`."
        )
    with open(path) as file:
        saved = json.load(file)
    if saved["class_name"] != cls.__name__:
        raise ValueError(
            f"The folder must hold a {cls.__name__}. "
            f"Received: {folder!r} with a {saved['class_name']}. "
            f"Use `{saved['class_name']}.from_preset`."
        )
    return cls.from_config(saved["config"])


def block_files(cls, preset):
    """Paths of a preset's blocks, in their order (list).

    Args:
        cls, preset: as in `load`.

    Raises:
        ValueError: if the preset was not saved by block.
    """
    _, folder = _find(cls, preset)
    paths = []
    if folder is not None:
        network = _without_weights(cls, folder)
        paths = _block_files(folder, network.num_blocks)
    return _all_there(paths, preset)


def _all_there(paths, preset):
    """The paths of a preset's blocks, if each is a file."""
    if not paths or not all(map(os.path.exists, paths)):
        raise ValueError(
            "Blocks are read from a preset that was saved by block. "
            f"Received: {preset!r}, which was not. Save it with "
            "`model.save_to_preset(folder, by_block=True)`."
        )
    return paths


def _block_files(folder, num_blocks):
    return [
        os.path.join(folder, BLOCK_FILE.format(i)) for i in range(num_blocks)
    ]


def _with_weights_of(stored, model, preset):
    """`model`, made with keywords of a user's, with the weights of `stored`."""
    model.build()
    shapes = [[tuple(v.shape) for v in m.weights] for m in (stored, model)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Trained weights need layers of the sizes they were trained in. "
            f"Received: {preset!r} with keywords that change them. Leave these "
            "out, or pass `load_weights=False` for fresh weights."
        )
    for variable, value in zip(model.weights, stored.weights, strict=True):
        variable.assign(value)
    return model


def save(model, folder, record=None, license=None, by_block=False):
    """Writes the weights of `model`, its config and its card to `folder`.

    Args:
        model: `DiffusionBlocks`.
        folder: path, made if need be.
        record, license: see `model_card.card`.
        by_block: bool. Whether each block has a file of its own.
    """
    if not model.built:
        model.build()
    record = model_card.read(record)
    page = model_card.card(model, record, license)  # raises before it writes
    os.makedirs(folder, exist_ok=True)
    blocks = _block_files(folder, model.num_blocks)
    whole = os.path.join(folder, WEIGHTS_FILE)
    if by_block:
        for block, path in zip(model.blocks, blocks, strict=True):
            block.save(path)
    else:
        model.save_weights(whole)
    if processes.number():  # process 0 writes
        return
    stale = [whole] if by_block else [*blocks]
    if not record:
        stale.append(os.path.join(folder, RECORD_FILE))
    for path in stale:
        if os.path.exists(path):  # of an earlier save
            os.remove(path)
    saved = keras.saving.serialize_keras_object(model)
    keys = ("class_name", "registered_name", "config")
    texts = {CONFIG_FILE: {key: saved[key] for key in keys}}
    if record:
        texts[RECORD_FILE] = record
    for name, content in texts.items():
        with written_beside(os.path.join(folder, name)) as beside:
            with open(beside, "w") as file:
                file.write(json.dumps(content, indent=2))
    model_card.write(page, folder)
