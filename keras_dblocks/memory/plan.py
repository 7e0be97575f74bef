"""Predicts the memory of training from steps of three and four layers.

A step's memory grows linearly with the number of layers, so two small models
of the same class give it for any depth and any number of blocks. On JAX
nothing is run; the other backends run training steps of those two models.
"""

import dataclasses
import re

import numpy as np
from keras import tree

from keras_dblocks.checks import check_integer
from keras_dblocks.memory.measure import measure
from keras_dblocks.memory.usage import PARTS, Memory, size
from keras_dblocks.models.diffusion_blocks import DiffusionBlocks

# Numbers of layers. With fewer, memory is not linear, due to the working space
# of the last layer.
PROBES = 3, 4
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {f"{u}i": 1024**i for i, u in enumerate("kmgt", 1)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The result of `plan`.

    Attributes:
        num_blocks: int. Number of blocks, B.
        batch_size: int.
        memory: `Memory` of a step.

    Example:

    ```python
    found = Plan(3, 128, Memory(4, 8, 4, 100, how="by hand"))
    found.memory.total  # 116
    ```
    """

    num_blocks: int
    batch_size: int
    memory: Memory


def plan(
    model: DiffusionBlocks,
    batch_size: int = 32,
    budget: int | str | None = None,
    alone: bool = False,
    offload: str | None = None,
) -> Plan:
    """Finds the fewest blocks, and the batch, whose training fits a budget.

    Args:
        model: `DiffusionBlocks` with layers of one kind. The plan is for its
            optimizer if it is compiled, otherwise for AdamW. The model itself
            is not built.
        batch_size: int. The batch is halved until something fits.
        budget: int, in bytes, or a string such as `"8 GiB"`. None plans for
            the model's own number of blocks.
        alone: bool. True plans for one block by itself, `model.block(i).fit`,
            and False for `model.fit`, where all parameters and optimizer
            states are resident.
        offload: `"host"` or None, as in `compile`. With `"host"` only one
            block's optimizer state is counted.

    Returns:
        `Plan`.

    Raises:
        ValueError: if nothing fits; it names the least memory that is needed.

    Example:

    ```python
    found = keras_dblocks.memory.plan(model, batch_size=128, budget="8 GiB")
    print(found.num_blocks, found.batch_size, found.memory.total)
    ```
    """
    check_integer("batch_size", batch_size)
    limit = None if budget is None else _bytes(budget)
    data = example(model, batch_size)
    line = MemoryOfDepth(lambda layers: shallow(model, layers), data)
    counts = [model.num_blocks]
    if limit is not None and model.layers_keyword == "num_layers":
        depth = model.num_layers
        counts = [b for b in range(1, depth + 1) if depth % b == 0]
    batch = batch_size
    while True:
        for count in counts:
            memory = of_blocks(model, line, count, alone, offload)
            share = batch / batch_size
            activations = int(memory.activations * share)
            memory = dataclasses.replace(memory, activations=activations)
            if limit is None or memory.total <= limit:
                return Plan(count, batch, memory)
        if batch == 1:
            raise ValueError(
                "Training must fit the budget. Received: "
                f"budget={budget!r}; {counts[-1]} blocks and a batch of 1 "
                f"need {memory.total:,} bytes. Pass "
                '`offload="host"` or `alone=True`, or more memory.'
            )
        batch = batch // 2


class MemoryOfDepth:
    """Memory of a step as a linear function of the number of layers.

    Args:
        make: function from a number of layers to a compiled model.
        data: tuple, a batch as `fit` takes it.
    """

    def __init__(self, make, data):
        self.points = []
        for layers in PROBES:
            model = make(layers)
            self.points.append(measure(model, *data))
        target = getattr(model, "target", None)
        self.target = size(target.variables) if target is not None else 0

    def at(self, layers):
        """`Memory` of the model with `layers` layers."""
        low, high = self.points
        parts = {}
        for name in PARTS:
            first, second = getattr(low, name), getattr(high, name)
            slope = (second - first) / (PROBES[1] - PROBES[0])
            parts[name] = int(first + slope * (layers - PROBES[0]))
        return Memory(**parts, how=f"foretold by {low.how}")


def example(model, batch_size):
    """A batch of zeros as `fit` takes it, from `model.batch_spec()`."""
    return tree.map_structure(
        lambda spec: np.zeros((batch_size, *spec.shape[1:]), spec.dtype),
        model.batch_spec(),
    )


def of_blocks(model, line, num_blocks, alone=False, offload=None):
    """`Memory` of `num_blocks` blocks from the `MemoryOfDepth` `line`."""
    layers = model.num_layers // num_blocks
    if num_blocks == model.num_blocks:
        layers = max(model.layers_per_block)
    block, whole, shell = (line.at(n) for n in (layers, model.num_layers, 0))
    if alone:
        return block
    parameters, state = whole.parameters, whole.optimizer_state
    if model.sharing == "targets":
        others = num_blocks - 1
        parameters += others * (shell.parameters - line.target)
        state += others * shell.optimizer_state
    if offload == "host":
        state = block.optimizer_state
    return dataclasses.replace(
        block, parameters=parameters, optimizer_state=state
    )


def shallow(model, layers):
    """A compiled model like `model` with one block of `layers` layers."""
    config = {**model.get_config(), "num_blocks": 1, "layers_per_block": None}
    config["sampler"] = None
    shallow = type(model).from_config({**config, model.layers_keyword: layers})
    template = "adamw"
    if model.compiled:
        template = model._compile_arguments["optimizer"]
    shallow.compile(template, on_policy=0.0)  # clones the optimizer
    return shallow


def _bytes(budget):
    number = re.fullmatch(r"([\d.]+)\s*([kmgt]?i?)b?", str(budget).lower())
    if number is None or number[2] == "i":
        raise ValueError(
            '`budget` must be bytes or a size such as "8 GiB". '
            f"Received: {budget!r}. Write a number and a unit."
        )
    return int(float(number[1]) * UNITS[number[2]])
