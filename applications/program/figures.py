"""Figures with their units: printed once, and kept in the record of a run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured number.

    Args:
        value: int or float.
        unit: string, such as "%" or "nats per token".
    """

    value: float
    unit: str

    def __str__(self):
        whole = isinstance(self.value, int) or abs(self.value) >= 1000
        digits = f"{self.value:,.0f}" if whole else f"{self.value:.4g}"
        return f"{digits} {self.unit}".strip()


def lines(figures):
    """The lines in which a dict of `Figure`s by name is printed."""
    return [f"{name}: {figure}" for name, figure in figures.items()]
