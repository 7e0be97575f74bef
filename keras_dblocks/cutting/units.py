"""The layers of any Keras model in an order, as the units blocks are made of.

A unit is what no block boundary goes through: a transformer layer, or a
convolution of a network that is written out. Models are opened, and so is a
layer that holds a list of composite layers, an encoder for example.
"""

import dataclasses
from typing import Any

import keras

from keras_dblocks import compat
from keras_dblocks.table import count


@dataclasses.dataclass(frozen=True)
class Unit:
    """A layer that belongs to one block as a whole.

    Attributes:
        name: str. Names of the layers that hold it and its own, with `/`.
        layer: Keras layer, whose weights count as the unit's unless an
            earlier unit has them.
        own_only: bool. True takes the weights that the layer itself made, and
            none of its sublayers'.
    """

    name: str
    layer: Any
    own_only: bool = False

    @property
    def variables(self):
        """All variables of the unit, also those that do not train (list)."""
        if self.own_only:
            return compat.own_variables(self.layer)
        return self.layer.variables

    @property
    def num_parameters(self):
        """Number of weights, however they may be frozen (int)."""
        return count(self.variables)

    @property
    def is_table(self):
        """Whether it is an embedding's table, which few tokens touch."""
        return isinstance(self.layer, keras.layers.Embedding)

    @property
    def is_composite(self):
        """Whether it holds two layers with weights or more."""
        return not self.own_only and _is_composite(self.layer)


def units_of(model):
    """The units of a model, in the order in which it computes.

    A functional model is gone through in the order of its graph, anything
    else in the order in which it has made its layers.

    Args:
        model: built `keras.Model`.

    Returns:
        List of `Unit`. Every variable of the model belongs to at least one.
    """
    found, seen = [], set()
    for unit in _open(model):
        if id(unit.layer) not in seen:
            seen.add(id(unit.layer))
            found.append(unit)
    return found


def _open(layer, path=""):
    if not layer.variables:
        return []
    children = [child for child in _children(layer) if child.variables]
    if not _opens(layer, children):
        return [Unit(path or layer.name, layer)]
    prefix = f"{path}/" if path else ""  # the model's own name says nothing
    units = [
        unit
        for child in children
        for unit in _open(child, f"{prefix}{child.name}")
    ]
    if compat.own_variables(layer):
        units.insert(0, Unit(path or layer.name, layer, own_only=True))
    return units


def opens(operation):
    """Whether it is a layer that holds a list of composite layers (bool)."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    children = [child for child in _children(operation) if child.variables]
    return _opens(operation, children)


def _children(layer):
    if isinstance(layer, keras.Model):
        return layer.layers
    return compat.direct_sublayers(layer)


def _opens(layer, children):
    if not children:
        return False
    if isinstance(layer, keras.Model):
        return True
    kinds = [type(child) for child in children if _is_composite(child)]
    return len(kinds) > len(set(kinds))


def _is_composite(layer):
    parts = [c for c in compat.direct_sublayers(layer) if c.variables]
    return len(parts) > 1
