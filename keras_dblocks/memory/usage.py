"""The memory of a training step, by part."""

import dataclasses
import math
import re

import keras

MIB = 2**20
PARTS = "parameters", "optimizer_state", "gradients", "activations"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that one training step needs.

    Attributes:
        parameters: int. All weights that are resident.
        optimizer_state: int. All optimizer state that is resident.
        gradients: int. Gradients of the variables that one step trains.
        activations: int. Everything else that is alive at the peak of a step,
            which is what the backward pass needs, and working space.
        how: string. How the figures were obtained.

    Example:

    ```python
    usage = Memory(4, 8, 4, 100, how="by hand")
    usage.temporaries, usage.total  # (104, 116)
    ```
    """

    parameters: int
    optimizer_state: int
    gradients: int
    activations: int
    how: str

    @property
    def temporaries(self) -> int:
        """Gradients and activations, which live within a step (int)."""
        return self.gradients + self.activations

    @property
    def total(self) -> int:
        """Sum of the parts (int)."""
        return self.parameters + self.optimizer_state + self.temporaries

    def row(self) -> list[str]:
        """The parts and their sum in MiB, as strings of equal width."""
        sizes = [getattr(self, part) for part in PARTS]
        return [f"{size / MIB:12,.1f}" for size in (*sizes, self.total)]


def of_parts(resident, state, trained, temporaries, how):
    """`Memory` of variables and of the temporaries of a step.

    Gradients reuse the memory of activations that are no longer needed, so a
    step with few activations may need no more temporaries than its gradients.
    """
    gradients = min(size(trained), temporaries)
    rest = temporaries - gradients
    return Memory(size(resident), size(state), gradients, rest, how)


def size(variables):
    """Bytes of variables, each counted once (int)."""
    unique = {id(v): v for v in variables}.values()
    return sum(math.prod(v.shape) * _width(v.dtype) for v in unique)


def _width(dtype):
    bits = re.search(r"\d+$", keras.backend.standardize_dtype(dtype))
    return int(bits[0]) // 8 if bits else 1  # bool
