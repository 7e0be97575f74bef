"""Configs made from the arguments of a constructor."""

import copy
import inspect
from typing import Any, Self

import keras

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Configured:
    """Makes `get_config` of a class whose arguments are attributes.

    Each argument of a class's constructor must be an attribute of the same
    name, and so must those of its bases that derive from this class, if the
    constructor takes `**kwargs` for them. Layers among them are serialized,
    and `from_config` makes them anew.
    """

    @classmethod
    def argument_names(cls) -> list[str]:
        """Names of the constructor's arguments that become attributes."""
        names: dict[str, Any] = {}
        for base in cls.__mro__:
            if not issubclass(base, Configured) or "__init__" not in vars(base):
                continue
            _, *parameters = inspect.signature(base.__init__).parameters.items()
            kinds = {name: p.kind for name, p in parameters}
            names |= {n: kind for n, kind in kinds.items() if n not in names}
            if inspect.Parameter.VAR_KEYWORD not in kinds.values():
                break
        return [name for name, kind in names.items() if kind not in VARIADIC]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for saving."""
        base = super()
        config = base.get_config() if hasattr(base, "get_config") else {}
        return {**config, **self.arguments()}

    def arguments(self) -> dict[str, Any]:
        """The arguments as they stand now, by name, layers serialized."""
        names = self.argument_names()
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise ValueError(
                "Every argument of a constructor must be an attribute of the "
                f"same name, so that the object can be saved. Received: "
                f"{type(self).__name__} without `{missing[0]}`. "
                f"Write `self.{missing[0]} = {missing[0]}`."
            )
        return {name: _serialized(getattr(self, name)) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the object from what `get_config` returned."""
        # A copy is needed, since a functional model empties its config.
        config = copy.deepcopy(config)
        return cls(**{key: _restored(value) for key, value in config.items()})


def _serialized(value):
    if isinstance(value, keras.layers.Layer):
        return keras.saving.serialize_keras_object(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_serialized(item) for item in value)
    return value


def _restored(value):
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_restored(item) for item in value]
    return value
