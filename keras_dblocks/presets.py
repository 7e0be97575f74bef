"""Presets, which are named constructor keywords or folders on disk."""

import json
import os

import keras

from keras_dblocks import processes
from keras_dblocks.files import model_card
from keras_dblocks.files.atomic_files import written_beside

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"


def load(cls, preset, **kwargs):
    """Makes a model of class `cls` from a preset.

    Args:
        cls: subclass of `DiffusionBlocks`; its `presets` attribute maps names
            to dicts with `config` and `description`.
        preset: str. A name in `cls.presets` (random weights), or the path of
            a folder written by `save_to_preset` (its weights).
        kwargs: constructor keywords that replace the preset's.

    Raises:
        ValueError: if `preset` is neither a known name nor such a folder.
    """
    known = getattr(cls, "presets", {})
    if preset in list(known):
        return cls(**{**known[preset]["config"], **kwargs})
    path = os.path.join(str(preset), CONFIG_FILE)
    if not os.path.exists(path):
        raise ValueError(
            "`preset` must be a known name or a folder with a "
            f"{CONFIG_FILE}. Received: {preset!r}. "
            f"Use one of {sorted(known)}, or a folder from `save_to_preset`."
        )
    with open(path) as file:
        saved = json.load(file)
    if saved["class_name"] != cls.__name__:
        raise ValueError(
            f"The folder must hold a {cls.__name__}. "
            f"Received: {preset!r} with a {saved['class_name']}. "
            f"Use `{saved['class_name']}.from_preset`."
        )
    model = cls.from_config({**saved["config"], **kwargs})
    model.build()
    model.load_weights(os.path.join(preset, WEIGHTS_FILE))
    return model


def save(model, folder, record=None, license=None):
    """Writes the weights of `model`, its config and its card to `folder`.

    Args:
        model: `DiffusionBlocks`.
        folder: path, made if need be.
        record, license: see `model_card.card`.
    """
    if not model.built:
        model.build()
    page = model_card.card(model, record, license)  # raises before it writes
    os.makedirs(folder, exist_ok=True)
    model.save_weights(os.path.join(folder, WEIGHTS_FILE))
    if processes.number():  # process 0 writes
        return
    saved = keras.saving.serialize_keras_object(model)
    keys = ("class_name", "registered_name", "config")
    config = json.dumps({key: saved[key] for key in keys}, indent=2)
    with written_beside(os.path.join(folder, CONFIG_FILE)) as beside:
        with open(beside, "w") as file:
            file.write(config)
    model_card.write(page, folder)
