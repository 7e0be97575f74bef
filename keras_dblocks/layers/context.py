"""Arguments that a part's `call` may name besides its input."""

import difflib
import functools
import inspect

# Names that a part's `call` may have beside its first argument.
NAMES = ("noise", "signal", "condition", "training")


def call_part(layer, inputs, context):
    """Calls `layer` with those entries of `context` that its `call` names."""
    return layer(inputs, **known(layer, context))


def known(layer, context):
    """The entries of `context` that the layer's `call` names."""
    return {k: v for k, v in context.items() if accepts(layer, k)}


def accepts(layer, argument):
    """True if the layer's `call` takes the named argument."""
    names = getattr(layer, "context_names", None)  # of a wrapper
    if names is not None:
        return argument in names
    return argument in _arguments(_function(layer))


def check_arguments(layer, part, names=NAMES):
    """Refuses a part whose `call` names arguments that do not exist.

    A misspelt argument with a default would otherwise keep its default, and
    the part would silently be unconditioned.

    Args:
        layer: Keras layer.
        part: str. What the error message calls the layer.
        names: names that a part's `call` may have.
    """
    parameters = list(_arguments(_function(layer)).values())[1:]
    own = not type(layer).__module__.startswith("keras.")
    for parameter in parameters:
        if parameter.name in names or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        needed = parameter.default is parameter.empty
        close = own and difflib.get_close_matches(
            parameter.name, names, cutoff=0.75
        )
        if needed or close:
            raise ValueError(
                f"The `call` of a {part} takes its input and those of "
                f"{', '.join(names)} that it names. Received: "
                f"{type(layer).__name__} with an argument "
                f"`{parameter.name}`. "
                + (f"Rename it `{close[0]}`." if close else "Drop it.")
            )


def _function(layer):
    call = layer.call
    return getattr(call, "__func__", call)


@functools.cache
def _arguments(call):
    parameters = inspect.signature(call).parameters
    return {k: v for k, v in parameters.items() if k != "self"}
