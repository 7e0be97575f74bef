"""What is shipped, what an import costs, and the rules of the house."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKEND = os.environ["KERAS_BACKEND"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION = PROJECT["project"]["version"]
BACKENDS = {"jax", "tensorflow", "torch"}
# Under `applications/`, but no systems: what all of them share.
SHARED = ("data", "images", "metrics", "program", "recipes", "text")
SHARED += ("torch_weights",)


def sources(*folders):
    """Every Python file under these folders of the checkout."""
    files = [file for name in folders for file in ROOT.glob(f"{name}/**/*.py")]
    assert files, f"nothing found in {folders}"
    return sorted(files)


def shipped_path(path):
    """Where the wheel holds this file: `applications/` lies in the method."""
    path = path.relative_to(ROOT)
    if path.parts[0] == "applications":
        path = "keras_dblocks" / path
    return path.as_posix()


def imported_names(path):
    """Absolute dotted names this file imports, at any depth of the code."""
    package = shipped_path(path.parent).replace("/", ".")
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(module, package)
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func).split(".")[-1]
            name = node.args[0]
            if function in ("import_module", "__import__"):
                if isinstance(name, ast.Constant) and name.value[0] != ".":
                    names.add(name.value)
    return names


def applications_imported(path):
    """Names of the applications this file imports; "" is their package."""
    names = {f"{name}.." for name in imported_names(path)}
    folders = ("keras_dblocks.applications.", "applications.")
    return {
        name.removeprefix(folder).split(".")[0]
        for name in names
        for folder in folders
        if name.startswith(folder)
    }


def python(code, **kwargs):
    """The JSON that `code` prints in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "module", ["keras_dblocks", "keras_dblocks.applications"]
)
def test_import_brings_no_other_backend_and_no_extra(module):
    # What keras itself loads is not ours: 3.15 imports jax on every backend,
    # where it is installed, for its orbax callback.
    code = (
        "import json, sys, keras; before = set(sys.modules); "
        f"import {module}; new = set(sys.modules) - before; "
        "print(json.dumps([name.split('.')[0] for name in new]))"
    )
    optional = {"grain", "keras_hub", "matplotlib", "ray", "sklearn"}
    optional |= {"tensorboardX", "tensorflow_datasets"} | BACKENDS - {BACKEND}
    assert optional.isdisjoint(python(code, cwd=ROOT))


@pytest.fixture
def wheel(tmp_path):
    # From a copy: setuptools leaves build/ in the source tree, and a module
    # that has been deleted since would be shipped from there.
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("keras_dblocks", "applications", "tests"):
        ignore = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", tmp_path, copy]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(tmp_path.glob("*.whl"))


@pytest.mark.once
def test_wheel_is_complete_and_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        shipped = {n for n in archive.namelist() if ".dist-info/" not in n}
    weights = [
        p for p in ROOT.glob("applications/pretrained/**/*") if p.is_file()
    ]
    files = [*sources("keras_dblocks", "applications"), *weights]
    files.append(ROOT / "keras_dblocks" / "py.typed")
    on_disk = set(map(shipped_path, files))
    assert "keras_dblocks/applications/vit/__init__.py" in on_disk
    assert shipped == on_disk

    (info,) = site.glob("*.dist-info")
    requires = importlib.metadata.Distribution.at(info).requires
    core = {name for name in requires if "extra ==" not in name}
    assert core == {"keras<3.16,>=3.15", "numpy>=2.0"}

    code = (
        "import json, keras_dblocks as k, keras_dblocks.applications.vit as v; "
        "print(json.dumps([k.__version__, k.__file__, v.__file__]))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    version, *files = python(code, cwd=tmp_path, env=environment)
    assert version == VERSION
    for file in files:
        # The editable install of the checkout must not have filled a gap.
        assert Path(file).is_relative_to(site)


@pytest.mark.quick
@pytest.mark.once
def test_the_version_stands_in_one_place():
    known = {ROOT / "pyproject.toml", ROOT / "CHANGELOG.md"}
    files = {*sources("keras_dblocks", "applications")}
    for pattern in ("*.py", "*.md", "*.cff", "docs/*.md"):
        files |= {*ROOT.glob(pattern)}
    written = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    for file in files - known:
        assert not written.search(file.read_text("utf-8")), file


@pytest.mark.quick
@pytest.mark.once
def test_backends_are_imported_by_the_steps_and_memory_alone():
    names = "tracing.py", "processes.py"
    allowed = {ROOT / "keras_dblocks" / name for name in names}
    allowed |= set(ROOT.glob("keras_dblocks/training/*_step.py"))
    allowed |= set(ROOT.glob("keras_dblocks/memory/*_memory.py"))
    for file in set(sources("keras_dblocks", "applications")) - allowed:
        roots = {name.split(".")[0] for name in imported_names(file)}
        assert roots.isdisjoint(BACKENDS | {"jaxlib"}), file


@pytest.mark.once
def test_method_imports_keras_and_numpy_only():
    core = {"keras", "keras_dblocks", "numpy"} | sys.stdlib_module_names
    # What an extra brings, where it is asked for.
    extras = {
        "keras_dblocks/callbacks.py": {"tensorboardX"},
        "keras_dblocks/models/export.py": {"onnx"},
        "keras_dblocks/ray.py": {"ray"},
        "keras_dblocks/models/diagnosis.py": {"matplotlib"},
    }
    for file in sources("keras_dblocks"):
        roots = {name.split(".")[0] for name in imported_names(file)}
        allowed = core | extras.get(file.relative_to(ROOT).as_posix(), set())
        # The backends have a test of their own.
        assert roots - BACKENDS <= allowed, file


@pytest.mark.quick
@pytest.mark.once
def test_method_never_imports_an_application():
    program = ROOT / "keras_dblocks" / "memory" / "__main__.py"  # of presets
    root = ROOT / "keras_dblocks" / "__init__.py"  # registers their classes
    for file in set(sources("keras_dblocks")) - {program, root}:
        assert applications_imported(file) == set(), file


@pytest.mark.quick
@pytest.mark.once
def test_no_application_imports_another():
    # The package itself lists them all.
    for file in sources("applications/*"):
        own = file.relative_to(ROOT).parts[1]
        assert applications_imported(file) <= {own, *SHARED}, file


def private_names_of_keras():
    """Attributes with one leading underscore that Keras's objects have."""
    import keras

    kinds = (
        keras.Model,
        keras.models.Sequential,
        keras.layers.Dense,
        keras.layers.Dropout,
        keras.optimizers.Adam,
        keras.metrics.Mean,
        keras.random.SeedGenerator,
        keras.Variable,
    )
    names = set().union(*map(dir, kinds))
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    objects = (model, model.layers[1], model.optimizer, keras.metrics.Mean())
    for thing in objects:
        names |= set(vars(thing))
    return {n for n in names if n[0] == "_" and n[:2] != "__"}


def private_uses(path, private):
    """Private names of Keras that a file reads, writes or overrides."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    methods = [n for c in classes for n in c.body]
    own = {n.name for n in methods if isinstance(n, ast.FunctionDef)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    uses = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    overridden = {n for n in own if n in private and n != "_fields"}
    return sorted((uses & private) | overridden)


@pytest.mark.quick
@pytest.mark.once
def test_private_names_of_keras_stand_in_one_module():
    private = private_names_of_keras()
    assert {"_flatten_layers", "_loss_tracker", "_iterations"} <= private
    compat = ROOT / "keras_dblocks" / "compat.py"
    assert private_uses(compat, private)  # the search finds them
    for file in set(sources("keras_dblocks", "applications")) - {compat}:
        assert private_uses(file, private) == [], file
