"""The page that `save_to_preset` leaves beside the weights."""

import json
import os

import keras

from keras_dblocks.files.atomic_files import written_beside
from keras_dblocks.table import count

NAME = "README.md"
# As long as a page has this line it is ours, and is written anew.
MARK = (
    "<!-- Written by `save_to_preset`, which replaces this page unless this "
    "line is removed. -->"
)
PAPER = "https://arxiv.org/abs/2506.14202"


def write(page, folder):
    """Writes a card, unless the page there is someone's own.

    Args:
        page: str, what `card` returned.
        folder: path that exists.
    """
    path = os.path.join(folder, NAME)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            if MARK not in file.read():
                return
    with written_beside(path) as beside:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(page)


def card(model, record=None, license=None):
    """The card of a model, Markdown with the front matter of Hugging Face.

    Args:
        model: built `DiffusionBlocks`.
        record: dict, the `record.json` of a run or the path of one, or None.
            Of it the card shows what `applications/program/record.py` writes.
        license: str, an identifier such as `"apache-2.0"`, or None to leave
            it out: that is the choice of whoever publishes the model.

    Raises:
        ValueError: for a record that is none.
    """
    record = read(record)
    kind = type(model).__name__
    parts = [
        _front_matter(kind, license),
        f"# {kind}",
        MARK,
        f"A `{kind}` of {model.num_layers} layers in {model.num_blocks} "
        f"blocks, made to be trained block by block "
        f"([DiffusionBlocks]({PAPER})) with keras_dblocks, for Keras 3 on "
        "JAX, TensorFlow or PyTorch.",
        "## Use",
        _use(model),
        "## Blocks",
        _blocks(model),
        "## Sizes",
        _sizes(model),
        "## Training",
        _training(model, record),
    ]
    if record.get("figures"):
        parts += ["## Results", _results(record["figures"])]
    return "\n\n".join(parts) + "\n"


def read(record):
    """The dict of a run's record; an empty one for None. See `card`."""
    if record is None:
        return {}
    came = record
    try:
        if not isinstance(record, dict):
            with open(record, encoding="utf-8") as file:
                record = json.load(file)
        for figure in record.get("figures", {}).values():
            figure["value"], figure["unit"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "`record` is the `record.json` of a run, or its dict. Received: "
            f"{came!r} ({type(error).__name__}: {error}). Pass the path of "
            "one that a training program wrote, or leave it out."
        ) from error
    return record


def _front_matter(kind, license):
    lines = ["---", "library_name: keras"]
    if license is not None:
        lines.append(f"license: {json.dumps(license)}")
    tags = ("keras", "keras-dblocks", "diffusion-blocks", kind.lower())
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _use(model):
    cls = type(model)
    module = cls.__module__
    if module.startswith("keras_dblocks.applications."):
        module = "keras_dblocks.applications"
    line = f"from {module} import {cls.__name__}"
    return (
        f'```python\n{line}\n\nmodel = {cls.__name__}.from_preset(".")  # the '
        "folder of this page\nmodel.summary()\n```"
    )


def _blocks(model):
    shared = model.shared_variables()
    rows = [("block", "layers", "noise range", "parameters of its own")]
    for index, own in enumerate(model.own_variables()):
        layers = model.partition.layers_of(index)
        low, high = model.partition.noise_range(index, overlap=False)
        span = f"{layers[0]} to {layers[-1]}"
        rows.append((index, span, f"({low:.4g}, {high:.4g}]", _number(own)))
    return (
        f"{_table(rows)}\n\n{_number(shared)} parameters are shared by all "
        f"blocks (`sharing={model.sharing!r}`), {_number(model.weights)} "
        "numbers are saved in all."
    )


def _sizes(model):
    config = model.get_config()
    plain = (int, float, str, bool)
    sizes = {
        name: value
        for name, value in config.items()
        if isinstance(value, plain) and name not in ("name", "format_version")
    }
    return _table([("argument", "value"), *sorted(sizes.items())])


def _training(model, record):
    rows = [("", "")]
    for name in ("command", "seed", "started", "backend", "commit"):
        if record.get(name) is not None:
            rows.append((name, f"`{record[name]}`"))
    for name in ("versions", "hardware"):
        for key, value in (record.get(name) or {}).items():
            if value:
                rows.append((f"{name}: {key}", f"`{value}`"))
    if "finished" in record and not record["finished"]:
        rows.append(("finished", "no: the run was interrupted"))
    if getattr(model, "optimizer", None) is not None:
        template = model.get_compile_config()["optimizer"]["class_name"]
        steps = [int(step) for step in model.step_counts()]
        rows.append(("optimizer", template))
        rows.append(("steps of each block", ", ".join(map(str, steps))))
        losses = keras.ops.convert_to_numpy(model.last_losses)
        known = [f"{loss:.4g}" if loss < 1e30 else "none" for loss in losses]
        rows.append(("last loss of each block", ", ".join(known)))
    if len(rows) == 1:
        return "Nothing is known of it."
    return _table(rows)


def _results(figures):
    rows = [("figure", "value", "unit")]
    for name, figure in figures.items():
        value = figure["value"]
        if isinstance(value, float):
            value = f"{value:.5g}"
        rows.append((name, value, figure["unit"]))
    return _table(rows)


def _table(rows):
    cells = [[str(c).replace("|", "\\|") for c in row] for row in rows]
    cells.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _number(variables):
    return f"{count(variables):,}"
