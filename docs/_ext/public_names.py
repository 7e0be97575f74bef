"""The public names; the build warns of one that has no place on a page."""

import functools
import importlib

from sphinx.util import logging

MODULES = ("", ".applications", ".callbacks", ".layers", ".memory", ".ray")
MODULES += (".samplers",)


@functools.cache
def public_names():
    """Paths such as `keras_dblocks.layers.Modulation`, sorted."""
    found = set()
    for module in (f"keras_dblocks{name}" for name in MODULES):
        names = importlib.import_module(module).__all__
        found |= {f"{module}.{name}" for name in names}
    return sorted(found)


@functools.cache
def _by_shorter_name():
    shorter = {}
    for path in public_names():
        _, *rest = path.split(".")
        shorter[path] = shorter[".".join(rest)] = path
        if rest[-1][0].isupper():  # `plan` may be any plan
            shorter[rest[-1]] = path
    return shorter


def path_of(name):
    """The path of a public name as prose writes it, or None."""
    return _by_shorter_name().get(name)


def _check(app, env):
    documented = env.get_domain("py").objects.keys()
    modules = env.get_domain("py").modules.keys()
    for path in public_names():
        if path not in documented | modules:
            logging.getLogger(__name__).warning(
                "%s is public and has no place in docs/reference", path
            )


def setup(app):
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
