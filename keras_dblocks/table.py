"""Tables of blocks, as `model.summary()` prints them."""

import math


def laid_out(model, rows):
    """The model's name, and rows of strings, of which the first is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{type(model).__name__}: {model.name}"]
    for row in rows:
        cells = zip(row, widths, strict=True)
        lines.append(" | ".join(c.ljust(w) for c, w in cells).rstrip())
    lines.insert(2, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def count(variables):
    """Number of elements of all variables together (int)."""
    return sum(math.prod(v.shape) for v in variables)


def state_size(optimizers, index):
    """Elements of the state of one of the optimizers, as a string."""
    if index >= len(optimizers):
        return "not compiled" if not optimizers else ""
    return f"{count(optimizers[index].variables):,}"
