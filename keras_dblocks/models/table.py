"""The table of blocks that `model.summary()` prints."""

import math


def summary(model):
    """Table of each block's layers, noise range, parameters and state."""
    if not model.built:
        model.build()
    rows = [("block", "layers", "noise range", "parameters", "optimizer state")]
    own, shared = model.own_variables(), model.shared_variables()
    optimizers = []
    if model.compiled:
        optimizers = list(model.optimizer.parts)
    for index, variables in enumerate(own):
        layers = model.partition.layers_of(index)
        low, high = model.partition.noise_range(index, overlap=False)
        rows.append(
            (
                str(index),
                f"{layers[0]} to {layers[-1]}",
                f"({low:.4g}, {high:.4g}]",
                f"{_count(variables):,}",
                _state(optimizers, index),
            )
        )
    if shared:
        state = _state(optimizers, model.num_blocks)
        rows.append(("shared", "", "", f"{_count(shared):,}", state))
    trained = {id(v) for group in (*own, shared) for v in group}
    counters = {id(v) for m in (model, *model.blocks) for v in m.counters()}
    rest = [v for v in model.weights if id(v) not in trained | counters]
    if rest:
        rows.append(("fixed", "", "", f"{_count(rest):,}", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [f"{type(model).__name__}: {model.name}"]
    for row in rows:
        cells = [
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ]
        lines.append(" | ".join(cells).rstrip())
    lines.insert(2, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def _count(variables):
    return sum(math.prod(v.shape) for v in variables)


def _state(optimizers, index):
    if index >= len(optimizers):
        return "not compiled" if not optimizers else ""
    return f"{_count(optimizers[index].variables):,}"
