"""Loads saved blocks into one model, and changes nothing if one is unfit."""

import json
import os
import re
import zipfile

import keras
import numpy as np
from keras import ops

from keras_dblocks.models.block import Block


def read_block(path):
    """Reads a block from a file; a ValueError says what is wrong with it."""
    path = os.fspath(path)
    try:
        if not zipfile.is_zipfile(path):
            missing = not os.path.exists(path)
            raise OSError("no such file" if missing else "no whole archive")
        block = keras.saving.load_model(path, compile=False)
    except Exception as error:  # of Keras, zipfile, h5py or json
        raise ValueError(
            "A saved block is a whole `.keras` archive. "
            f"Received: {path!r}, which cannot be read ({error}). "
            "Import its class, or save the block again with `block.save`."
        ) from error
    if not isinstance(block, Block):
        raise ValueError(
            "A saved block holds a `Block`. "
            f"Received: {path!r} with a {type(block).__name__}. "
            "Save one with `model.block(i).save(path)`."
        )
    return block


def network_of(block):
    """The network that a saved block belongs to, without building it."""
    return keras.saving.deserialize_keras_object(
        {**block.get_config()["network"], "build_config": None}
    )


def load_block(model, path):
    """Copies a saved block into `model`; on an error `model` is unchanged."""
    block = read_block(path)
    check_same_network(model, network_of(block), path)
    if not model.built:
        model.build()
    mine = model.blocks[block.index]
    shared = _shared_positions(model, mine)
    if model.num_blocks > 1:
        values = (
            paths_and_values(b.weights[i] for i in shared)
            for b in (mine, block)
        )
        check_shared(*values, model.sharing, path)
    for variable, value in zip(mine.weights, block.weights, strict=True):
        variable.assign(value)


def from_blocks(cls, paths):
    """Makes a model of class `cls` from one file per block, in any order."""
    if not paths:
        raise ValueError(
            "One file per block is needed, at least one. Received: no files. "
            "Save blocks with `model.block(i).save(path)`."
        )
    blocks = [read_block(path) for path in paths]
    network = network_of(blocks[0])
    if not isinstance(network, cls):
        raise ValueError(
            f"The files must hold blocks of a {cls.__name__}. "
            f"Received: blocks of a {type(network).__name__}. "
            f"Use `{type(network).__name__}.from_blocks`."
        )
    for block, path in zip(blocks, paths, strict=True):
        check_same_network(network, network_of(block), path)
    found = sorted(block.index for block in blocks)
    if found != list(range(network.num_blocks)):
        raise ValueError(
            f"One file per block is needed, 0 to {network.num_blocks - 1}. "
            f"Received: files of blocks {found}. Add or drop files."
        )
    model = type(network).from_config(network.get_config())
    model.build()
    first = blocks[0]
    for block, path in zip(blocks, paths, strict=True):
        mine = model.blocks[block.index]
        shared = _shared_positions(model, mine)
        values = (
            paths_and_values(b.weights[i] for i in shared)
            for b in (first, block)
        )
        check_shared(*values, model.sharing, path)
    for block in blocks:
        weights = model.blocks[block.index].weights
        for variable, value in zip(weights, block.weights, strict=True):
            variable.assign(value)
    return model


def _shared_positions(model, block):
    """Positions in `block.weights` of the variables that all blocks hold."""
    common = set.intersection(
        *({id(v) for v in b.weights} for b in model.blocks)
    )
    # Every block lists its weights in the same order.
    return [i for i, v in enumerate(block.weights) if id(v) in common]


def paths_and_values(variables):
    """Pairs of a variable's path and its value, numpy (list)."""
    return [(v.path, ops.convert_to_numpy(v)) for v in variables]


def check_shared(first, second, sharing, path):
    """Refuses a block whose shared values are not those of the first one.

    Args:
        first, second: lists as of `paths_and_values`, of what two blocks
            share.
        sharing: str, that of the network.
        path: path of the second block's file.
    """
    different = [
        name
        for (name, mine), (_, its) in zip(first, second, strict=True)
        if not np.array_equal(mine, its)
    ]
    if different:
        raise ValueError(
            "What blocks share must be equal in all of them. "
            f"Received: {path!r}, which differs in {', '.join(different)}. "
            + (
                'Train apart with `sharing="targets"`, which gives each block '
                "its own stem and head."
                if sharing == "all"
                else "Make all blocks from one model or one `seed`, which "
                "fixes the table of targets."
            )
        )


def anonymous(config):
    """JSON of a config with the names of layers replaced by numbers.

    Keras numbers the layers of a process, so the names of equal parts differ.
    """
    text = json.dumps(config, sort_keys=True, default=str)
    names = re.findall(r'"name": "([^"]+)"', text)
    for number, name in enumerate(dict.fromkeys(names)):
        text = text.replace(f'"{name}"', f'"#{number}"')
    return text


def check_same_network(model, other, path):
    mine, its = model.partition.describe(), other.partition.describe()
    if mine != its:
        raise ValueError(
            f"The block must have this model's partition, {mine}. "
            f"Received: {path!r} with {its}. "
            "Build the model with the settings of the file."
        )
    free = model.interchangeable  # keywords that may differ
    mine, its = (
        {k: anonymous(v) for k, v in m.get_config().items() if k not in free}
        for m in (model, other)
    )
    if type(model) is not type(other) or mine != its:
        names = [k for k in mine if mine[k] != its.get(k)]
        raise ValueError(
            f"The block must belong to a {type(model).__name__} like this one. "
            f"Received: {path!r} of a {type(other).__name__} that differs in "
            f"{', '.join(names) or 'its class'}. "
            "Build the model with the settings of the file."
        )
