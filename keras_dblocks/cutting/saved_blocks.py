"""A network in pieces, each an ordinary Keras model in a file of its own.

A piece is a functional model of the inputs that it reads and of what it is
handed. It loads without this package, and `predict_from_blocks` holds one
piece's weights at a time.
"""

import contextlib
import gc
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dblocks import processes
from keras_dblocks.cutting.graph import copied
from keras_dblocks.files.atomic_files import written_beside

INDEX = "blocks.json"


def save_blocks(pieces, folder):
    """Writes a file for each piece, and one that says what they are.

    Args:
        pieces: list of `Piece` of one graph.
        folder: path. It is made if it does not exist.

    Raises:
        ValueError: for operations that cannot be copied.
    """
    if processes.number():  # process 0 writes
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    graph = pieces[0].graph
    models = [_standalone(piece, i) for i, piece in enumerate(pieces)]
    names = [graph.specs[number].name for number in graph.inputs]
    index = {"num_blocks": len(pieces), "inputs": names}
    with contextlib.ExitStack() as stack:  # all are written, then all renamed
        path = stack.enter_context(written_beside(folder / INDEX))
        Path(path).write_text(json.dumps(index, indent=1) + "\n")
        for i, model in enumerate(models):
            path = stack.enter_context(written_beside(_path(folder, i)))
            model.save(path)


def load_blocks(pieces, blocks, folder, custom_objects=None):
    """Sets the weights of a network to those of its saved pieces.

    Args:
        pieces: list of `Piece`, one for each file.
        blocks: list of `CutBlock`, whose layers each takes from its own file.
        folder: path.
        custom_objects: as in `keras.saving.load_model`.
    """
    known = read_index(folder)
    if known["num_blocks"] != len(pieces):
        raise ValueError(
            f"The files must be of {len(pieces)} blocks. Received: {folder}, "
            f"with {known['num_blocks']}. Cut the network as it was cut when "
            "they were saved."
        )
    found = []
    for index, (piece, block) in enumerate(zip(pieces, blocks, strict=True)):
        saved = _read(folder, index, custom_objects)
        own = {id(unit.layer) for unit in block.units}
        for layer, name in _names(piece).values():
            if id(layer) in own and layer.weights:
                found.append((layer, _weights(saved, name, layer, folder)))
    for layer, weights in found:  # only once all of them fit
        layer.set_weights(weights)


def _weights(saved, name, layer, folder):
    names = {part.name: part for part in saved.layers}
    weights = names[name].get_weights() if name in names else []
    wanted = [tuple(w.shape) for w in layer.weights]
    came = [w.shape for w in weights]
    if wanted != came:
        raise ValueError(
            f"The files must hold this network's layers. Received: {folder}, "
            f"with weights of shapes {came} for {layer.name}, which has "
            f"{wanted}. Build the network that was saved."
        )
    return weights


def predict_from_blocks(
    folder: os.PathLike | str,
    x: Any,
    batch_size: int = 32,
    custom_objects: dict[str, Any] | None = None,
) -> np.ndarray:
    """Predicts with a network that `save_blocks` wrote, a block at a time.

    At most one block's weights are in memory. What a block makes of all rows
    is kept before the next one is loaded.

    Args:
        folder: path.
        x: array, or list or dict of arrays, as the network's `predict` takes.
        batch_size: int.
        custom_objects: as in `keras.saving.load_model`.

    Returns:
        numpy array.

    Raises:
        ValueError: for missing files, and inputs that the network has not.

    Example:

    ```python
    cut = keras_dblocks.cut(model, num_blocks=3, training="sequential")
    cut.save_blocks("blocks")
    keras_dblocks.predict_from_blocks("blocks", x)  # as `model.predict(x)`
    ```
    """
    known = read_index(folder)
    given = _by_name(x, known["inputs"])
    handed: list[np.ndarray] = []
    for index in range(known["num_blocks"]):
        model = _read(folder, index, custom_objects)
        names = [tensor.name for tensor in model.inputs]
        data = dict(zip(_handed_names(len(handed)), handed, strict=True))
        data |= {n: given[_original(n)] for n in names if n not in data}
        made = model.predict(data, batch_size=batch_size, verbose=0)
        handed = [np.asarray(m) for m in keras.tree.flatten(made)]
        del model
        gc.collect()  # what Keras keeps in cycles
    return handed[0]


def read_index(folder):
    """What `save_blocks` says of the files in a folder, a dict."""
    path = Path(folder) / INDEX
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"A folder of blocks has a file {INDEX}. Received: {folder} "
            f"({error}). Write it with `cut.save_blocks(folder)`."
        ) from error
    paths = [_path(folder, index) for index in range(known["num_blocks"])]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ValueError(
            f"A folder of blocks has a file for each. Received: {folder} "
            f"without {', '.join(missing)}. Save the blocks again."
        )
    return known


def _path(folder, index):
    return Path(folder) / f"block_{index}.keras"


def _read(folder, index, custom_objects):
    return keras.saving.load_model(
        _path(folder, index), custom_objects, compile=False
    )


def _by_name(x, names):
    """Arrays of an input by the names of the network's inputs."""
    if isinstance(x, dict) and {*x} >= {*names}:
        return {name: x[name] for name in names}
    leaves = [x] if hasattr(x, "shape") else keras.tree.flatten(x)
    if isinstance(x, dict) or len(leaves) != len(names):
        came = [*x] if isinstance(x, dict) else f"{len(leaves)} arrays"
        raise ValueError(
            f"The network's inputs are {names}. Received: {came}. Pass a dict "
            "of them, or arrays in this order."
        )
    return dict(zip(names, leaves, strict=True))


def _handed_names(count):
    return [f"handed_{i}" for i in range(count)]


def _original(name):
    return name.removeprefix("input_of_")


def _names(piece):
    """For each operation of a piece, by `id`, it and the name of its copy."""
    calls = (*piece.of_inputs, *piece.calls)
    found = {}
    for call in calls:
        name = call.path.replace("/", "_").replace(".", "_")
        found.setdefault(id(call.operation), (call.operation, name))
    return found


def _standalone(piece, index):
    """The piece as a functional model of its own, with copies of its layers."""
    graph = piece.graph
    values, inputs = {}, []
    handed = dict(zip(piece.entering, _handed_names(99), strict=False))
    for number in (*piece.entering, *piece.inputs):
        spec = graph.specs[number]
        name = handed.get(number, f"input_of_{spec.name}")
        values[number] = keras.Input(
            batch_shape=spec.shape, dtype=spec.dtype, name=name
        )
        inputs.append(values[number])
    copies = {
        key: copied(
            operation,
            "A block's file holds copies of its layers.",
            "Give its class a `get_config`.",
            name,
        )
        for key, (operation, name) in _names(piece).items()
    }
    made = piece.run(values, None, copies)
    return keras.Model(inputs, made, name=f"block_{index}")
