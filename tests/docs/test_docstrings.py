"""Public names have examples that run, and types."""

import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_dblocks

EXTENSIONS = Path(__file__).resolve().parent.parent.parent / "docs" / "_ext"
FENCE = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
MODULES = ("", ".applications", ".callbacks", ".layers", ".memory", ".ray")
MODULES += (".samplers",)
SYSTEMS = {"ViT", "DiT", "MDM", "ARTransformer", "RecurrentDepth"}
# Each trains a system or a network, which the guides do too.
SLOW = SYSTEMS | {"Block", "ComposedBlocks", "CutModel", "Diagnosis"}
SLOW |= {"cut", "diagnose", "measure", "EulerSampler", "predict_from_blocks"}
SLOW |= {"BlockLog", "memory.plan"}
pytestmark = pytest.mark.once


def public():
    """Things by path from the package, modules and constants left out."""
    found = {}
    for module in MODULES:
        module = importlib.import_module(f"keras_dblocks{module}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                path = f"{module.__name__}.{name}"
                found[path.removeprefix("keras_dblocks.")] = thing
    return found


PUBLIC = public()


def examples_of(thing):
    docstring = textwrap.dedent(inspect.cleandoc(thing.__doc__ or ""))
    return [textwrap.dedent(code) for code in FENCE.findall(docstring)]


def names_of_an_example():
    """What examples take for granted: imports, and data and networks."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(8, 8, 8, 1)).astype("float32")
    labels = rng.integers(0, 3, 8).astype("int32")
    things = {path.split(".")[-1]: thing for path, thing in PUBLIC.items()}
    things |= {"keras": keras, "keras_dblocks": keras_dblocks, "np": np}
    things |= {"layers": keras_dblocks.layers, "ops": ops}
    things |= {"samplers": keras_dblocks.samplers, "dataclasses": dataclasses}
    things |= {"__name__": "example", "images": images, "labels": labels}
    things |= {"x": images, "y": labels}
    things |= {"x_test": images, "y_test": labels}
    things["tokens"] = rng.integers(0, 27, (8, 32)).astype("int32")
    return things


def small_vit():
    sizes = {"image_size": 8, "num_classes": 3, "channels": 1}
    sizes |= {"num_layers": 2, "num_blocks": 2, "hidden_dim": 8}
    model = PUBLIC["applications.ViT"](**sizes, num_heads=2)
    model.compile("adamw")
    return {"model": model}


def vectors():
    x = np.zeros((640, 8), "float32")  # enough steps for each block
    return {"x": x, "y": x}


def dense():
    chain = [keras.layers.Dense(8) for _ in range(4)]
    network = keras.Sequential([keras.Input((8,)), *chain])
    return {"network": network, "model": network, **vectors()}


def stem():
    noisy = keras.Input((64,))
    image = keras.Input((8, 8, 1), name="condition")
    flat = keras.layers.Flatten()(image)
    state = keras.layers.Dense(64)(noisy) + keras.layers.Dense(64)(flat)
    layer = keras.layers.Dense
    return {
        "stem": keras.Model([noisy, image], state),
        "make_layer": lambda: layer(64),
    }


def stem_of_points():
    @keras.saving.register_keras_serializable(package="example")
    class Stem(keras.layers.Layer):
        def build(self, noisy_shape, condition_shape):
            self.dense = keras.layers.Dense(32)
            self.dense.build((None, noisy_shape[-1] + 2))

        def call(self, noisy, condition):
            return self.dense(ops.concatenate([noisy, condition], -1))

    x = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    return {"Stem": Stem, "x": x, "y": np.array([0, 1, 2, 0, 1, 2, 0, 1])}


GIVEN = {
    "Block": small_vit,
    "ComposedBlocks": stem_of_points,
    "callbacks.BlockLog": small_vit,
    "CutModel": dense,
    "Diagnosis": small_vit,
    "DiffusionBlocks": stem,
    "cut": vectors,
    "diagnose": small_vit,
    "memory.measure": small_vit,
    "memory.plan": small_vit,
    "predict_from_blocks": dense,
    "samplers.EulerSampler": small_vit,
}


def marked(path):
    named = {path, path.split(".")[-1]} & SLOW
    return pytest.param(path, marks=[pytest.mark.slow] if named else [])


# tests/test_ray.py starts Ray in a process of its own.
@pytest.mark.parametrize(
    "path", [marked(path) for path in sorted({*PUBLIC} - {"ray.fit_blocks"})]
)
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = examples_of(PUBLIC[path])
    assert examples, f"{path} has no example"
    names = {**names_of_an_example(), **GIVEN.get(path, dict)()}
    for code in examples:
        # Frozen dataclasses look for the module that they are defined in.
        monkeypatch.setitem(sys.modules, "example", keras_dblocks)
        exec(code, names)


def test_the_reference_knows_what_is_public(monkeypatch):
    pytest.importorskip("sphinx", reason="of the extra `docs`")
    monkeypatch.syspath_prepend(EXTENSIONS)
    listed = importlib.import_module("public_names").public_names()
    assert {f"keras_dblocks.{path}" for path in PUBLIC} <= {*listed}


def test_a_docstring_becomes_what_autodoc_reads(monkeypatch):
    pytest.importorskip("sphinx", reason="of the extra `docs`")
    monkeypatch.syspath_prepend(EXTENSIONS)
    converted = importlib.import_module("markdown_docstrings").converted
    assert converted("a `Noise` of `make_...`, *x*, make_") == (
        "a :py:obj:`Noise <keras_dblocks.Noise>` of ``make_...``, "
        r"\*x\*, make\_"
    )
    page = "docs/method.md#sampling"
    address = "../method.html#sampling"
    assert converted(f"({page})") == f"(`{page} <{address}>`__)"
    link = "[EDM](https://arxiv.org/abs/2206.00364)"
    assert converted(link) == "`EDM <https://arxiv.org/abs/2206.00364>`__"
    code = "Example:\n\n```python\nx = `y`\n```\n"
    assert ".. code-block:: python\n\n    x = `y`\n" in converted(code)
    table = converted("| a | b |\n|---|---|\n| `c` | d |\n")
    assert "   * - ``c``\n     - d" in table


def without_types(thing):
    """Parameters without a type, of a function or our own constructor."""
    if inspect.isclass(thing):
        owner = next(k for k in thing.__mro__ if "__init__" in vars(k))
        if not owner.__module__.startswith("keras_dblocks."):
            return []  # Keras's, or that of `object`
        thing = owner.__init__
    parameters = inspect.signature(thing).parameters.values()
    named = [p for p in parameters if p.name != "self"]
    return [p.name for p in named if p.annotation is p.empty]


def test_public_parameters_have_types():
    for path, thing in PUBLIC.items():
        assert without_types(thing) == [], path
    assert without_types(lambda x: x) == ["x"]
