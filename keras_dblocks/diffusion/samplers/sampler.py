"""The contract of a sampler, which plans denoiser calls and uses them."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import keras
import numpy as np
from keras import ops

from keras_dblocks import streams
from keras_dblocks.checks import is_integer
from keras_dblocks.contracts import Contract
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.samplers.grid import GRIDS, noise_levels


class Draws(NamedTuple):
    """Random numbers of one call of the denoiser, different for each row.

    Attributes:
        stream: `streams.Stream`.
        rows: int32 tensor `(B,)`.
        step: int32 tensor `()`, number of the call.

    Example:

    ```python
    from keras_dblocks import streams

    draws = Draws(streams.Stream(0, "example"), rows=ops.arange(2), step=0)
    draws.normal((3,))  # (2, 3)
    ```
    """

    stream: streams.Stream
    rows: object
    step: object

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Standard normal numbers, float32 `(B, *shape)`."""
        return self.stream.normal(self.rows, shape, self.step)

    def uniform(self, shape: tuple[int, ...]) -> Any:
        """Uniform numbers in [0, 1), float32 `(B, *shape)`."""
        return self.stream.uniform(self.rows, shape, self.step)


@dataclasses.dataclass(frozen=True)
class Sampler(Contract):
    """How the chain goes from noise to the answer.

    A sampler says at which noise levels the denoiser is called (`levels`,
    `calls`) and how the state changes after each call (`step`). The loop over
    the calls, which picks the block that owns each level, is in
    `samplers.loop`. A sampler is immutable; to change one, make another:
    `model.sampler = dataclasses.replace(model.sampler, num_steps=9)`.

    To write one, subclass this class as a frozen dataclass (its fields are
    the constructor's arguments, and are saved), define the methods below, and
    register it with `keras.saving.register_keras_serializable`, so that
    models with this sampler can be saved and loaded. The methods are called
    by:

    | method | by | when |
    |---|---|---|
    | `levels`, `calls` | `loop.plan` | once, on the host, in Python floats |
    | `initial` | the loop | once a chain, compiled |
    | `step` | the loop | after every call of the denoiser, compiled |
    | `result` | the loop | after every call; the last one's is returned |

    Example, Euler's method on levels of your own:

    ```python
    @keras.saving.register_keras_serializable(package="mine")
    @dataclasses.dataclass(frozen=True)
    class Halving(samplers.Sampler):
        factor: float = 0.5

        def levels(self, partition):
            steps = self.num_steps or partition.num_blocks
            top = partition.noise.maximum
            return [top * self.factor**i for i in range(steps)]

        def calls(self, levels):
            return {"level": levels[:-1], "following": levels[1:]}

        def step(self, state, denoised, call, draws):
            ratio = call["following"] / call["level"]
            return (ratio * state[0] + (1 - ratio) * denoised,)
    ```

    Args:
        num_steps: int, steps of the grid, or None for one per block.
        seed: int. The start noise and what `step` draws follow from it.

    Attributes:
        starts_from_noise: bool. Whether the chain starts from noise
            (generation, and the reference), or from the mean of that noise
            (tasks with one right answer). Defaults to True.
        guidance_scale: float or None. Scale of classifier-free guidance.
        skips_blocks: bool. True if blocks may be left out on purpose;
            otherwise a block that no call reaches causes a warning.
        planned_fields: tuple of str. Fields that only `levels`, `calls` and
            the start depend on. Samplers that differ only in these fields
            share their compiled functions.

    See docs/method.md#sampling.
    """

    num_steps: int | None = None
    seed: int = dataclasses.field(default=0, kw_only=True)

    starts_from_noise = True
    # No field, and so without a type: a field of this name keeps its place.
    guidance_scale = None
    skips_blocks = False
    planned_fields: ClassVar[tuple[str, ...]] = ("num_steps", "seed")

    def __post_init__(self):
        for name in ("num_steps", "seed"):
            value = getattr(self, name)
            if value is None and name == "num_steps":
                continue
            if not is_integer(value) or value < (name == "num_steps"):
                least = 1 if name == "num_steps" else 0
                raise ValueError(
                    f"`{name}` must be a whole number, at least {least}. "
                    f"Received: {name}={value!r}. Leave it out for the default."
                )

    @abc.abstractmethod
    def levels(self, partition: Partition) -> Sequence[float] | np.ndarray:
        """Descending noise levels, one for each step.

        Args:
            partition: `Partition`, with `.num_blocks`, `.noise` and more.

        Returns:
            Sequence of floats.
        """

    @abc.abstractmethod
    def calls(self, levels: list[float]) -> dict[str, list[float]]:
        """Calls of the denoiser that the steps take.

        Args:
            levels: list of floats, those of `levels` followed by 0.

        Returns:
            Dict of equally long lists of floats with one entry per call:
            `"level"`, at which the denoiser is called, and whatever else
            `step` needs to know about the call.
        """

    def initial(self, noisy: Any) -> tuple:
        """State before the first call, a tuple that begins with `noisy`.

        Args:
            noisy: tensor `(B, ...)` that the chain starts from.

        Returns:
            Tuple of tensors, whose shapes and dtypes must not change.
        """
        return (noisy,)

    @abc.abstractmethod
    def step(
        self, state: tuple, denoised: Any, call: dict[str, Any], draws: Draws
    ) -> tuple:
        """State after a call of the denoiser.

        Args:
            state: tuple of tensors, see `initial`. The first of them was the
                denoiser's input.
            denoised: tensor `(B, ...)`, its estimate of the clean signal.
            call: dict of float32 scalars, one entry of `calls`.
            draws: `Draws`, the source of all randomness.

        Returns:
            Tuple like `state`.
        """

    def result(self, state: tuple, prediction: Any) -> Any:
        """What the loop returns for a call.

        Args:
            state: tuple, what `step` returned.
            prediction: tensor `(B, ...)`, what the block's head returned.
        """
        return prediction

    def no_result(self, state: tuple, prediction_shape: tuple[int, ...]) -> Any:
        """Placeholder for `result` before any call, of its shape and dtype."""
        shape = (ops.shape(state[0])[0], *prediction_shape)
        return ops.zeros(shape, dtype="float32")

    def compiled_part(self) -> Self:
        """The sampler with all `planned_fields` at their defaults.

        It stands for what a compiled visit depends on.
        """
        fields: dict[str, Any] = {
            f.name: f.default for f in dataclasses.fields(self)
        }
        planned = {name: fields[name] for name in self.planned_fields}
        return dataclasses.replace(self, **planned)

    def get_config(self) -> dict[str, Any]:
        """Returns the fields, for saving."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the sampler from what `get_config` returned."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class GaussianSampler(Sampler):
    """Base of samplers of Gaussian noise, with grid, start and guidance.

    Args:
        num_steps: int, steps of the grid. Defaults to one per block.
        grid: `"upper_edges"`, `"equal_mass"` or `"karras"`; see
            `keras_dblocks.samplers.noise_levels`.
        start: `"zero"` (the mean of the start distribution; for tasks with
            one right answer) or `"noise"` (generation, and the reference).
        guidance_scale: float or None. Scale of classifier-free guidance, the
            prediction without condition plus `guidance_scale` times the
            difference that the condition makes. None means no guidance.
        rho: float. Exponent of the Karras grid. Defaults to `7`.
        seed: int. The start noise and what `step` draws follow from it.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="mine")
    @dataclasses.dataclass(frozen=True)
    class Euler(samplers.GaussianSampler):
        def calls(self, levels):
            return {"level": levels[:-1], "following": levels[1:]}

        def step(self, state, denoised, call, draws):
            levels = call["level"], call["following"]
            return (samplers.euler_step(state[0], denoised, *levels),)
    ```

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithms 1 and 2
     - [Classifier-free guidance](https://arxiv.org/abs/2207.12598)
    """

    grid: str = "upper_edges"
    start: str = "zero"
    guidance_scale: float | None = None  # type: ignore[assignment]
    rho: float = 7.0

    planned_fields = (*Sampler.planned_fields, "grid", "start", "rho")

    def __post_init__(self):
        super().__post_init__()
        if self.start not in ("zero", "noise"):
            raise ValueError(
                '`start` must be "zero" or "noise". Received: '
                f'start={self.start!r}. Use "zero" for classification.'
            )
        if self.grid not in GRIDS:
            raise ValueError(
                f"`grid` must be one of {GRIDS}. "
                f'Received: grid={self.grid!r}. Use "upper_edges".'
            )

    @property
    def starts_from_noise(self) -> bool:  # type: ignore[override]
        return self.start == "noise"

    def levels(self, partition: Partition) -> np.ndarray:
        steps = self.num_steps or partition.num_blocks
        return noise_levels(partition, steps, self.grid, self.rho)


def as_columns(rows):
    """Turns dicts with the same keys, one per call, into a dict of lists."""
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def serialize(sampler: Sampler) -> dict[str, Any]:
    """Config of a registered sampler, which `get` takes.

    Raises:
        ValueError: if the class is not registered, since the sampler could
            then not be loaded.

    Example:

    ```python
    samplers.get(samplers.serialize(EulerSampler(4))) == EulerSampler(4)
    ```
    """
    kind = type(sampler)
    name = keras.saving.get_registered_name(kind)
    if keras.saving.get_registered_object(name) is not kind:
        raise ValueError(
            "A sampler is saved with the model, so Keras must know its class. "
            f"Received: a {kind.__name__}, which is not registered. Decorate "
            "it with `keras.saving.register_keras_serializable(package=...)`."
        )
    return keras.saving.serialize_keras_object(sampler)
