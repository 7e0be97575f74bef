"""The contract of a network, whose parts a subclass defines."""

import abc
from typing import Any

import keras
from keras import ops, tree

from keras_dblocks.checks import check_array
from keras_dblocks.contracts import Contract
from keras_dblocks.diffusion.log_normal import LogNormalNoise
from keras_dblocks.diffusion.noise import Noise
from keras_dblocks.diffusion.preconditioning import (
    EDMPreconditioning,
    Preconditioning,
)
from keras_dblocks.diffusion.samplers.euler import EulerSampler
from keras_dblocks.diffusion.samplers.sampler import Sampler
from keras_dblocks.diffusion.target import Target
from keras_dblocks.layers import MovingAverage, NoiseEmbedding
from keras_dblocks.models.parts import Shell


class Network(Contract):
    """The parts of a network, and the meaning of its batches.

    A subclass of `DiffusionBlocks` must define `condition_spec`,
    `make_target`, `make_stem` and `make_layer`; everything else has a default.
    All hooks are called on the host, and `make_...` once for each layer that
    is made:

    | hook | returns | called |
    |---|---|---|
    | `condition_spec` | `keras.KerasTensor`, tree of them, or None | often |
    | `make_target` | `Target`, the clean signal | once |
    | `make_stem` | layer from the scaled noisy signal to the first state | once, or once per block |
    | `make_layer(index)` | layer from a state to a state of the same shape | once per index |
    | `make_readout` | layer from the last state to the clean signal's shape | as the stem |
    | `make_head` | layer from the denoised signal to the prediction | as the stem |
    | `make_noise_embedding` | layer from `c_noise` `(B,)` to `(B, noise_dim)` | as the stem |
    | `make_shell(target)` | `Shell` of these four layers | as the stem |
    | `make_noise`, `make_preconditioning`, `make_sampler` | the method's parts | once |

    Except for the residual layers, these parts are made once for the whole
    network with `sharing="all"`, and once per block with `sharing="targets"`.
    A part's `call` gets its input, and those of the following arguments that
    it names: `noise`, the embedded noise level `(B, noise_dim)`; `signal`, the
    noisy signal `(B, ...)`; `condition`, what the block also sees; and
    `training`. A residual layer that does not name `noise` is wrapped in
    `layers.NoiseModulation`, which scales and shifts its input by functions of
    the noise level and passes on `training` alone.

    A network with skip connections from one layer to a much later one (a
    U-Net) cannot be cut between the two. The whole U-Net can be one layer.

    Attributes:
        ema_momentum: float or None. Momentum of the weights' moving average.
        layers_keyword: str. Constructor keyword of the number of residual
            layers, which plans of memory change.
        remat_last: bool. True lets `remat` compute a block's last layer again
            too, which saves memory if much comes after it.
        keeps_shape: bool. Whether a block's last layer must return the shape
            that it was given, as the others must.
        hand_overs: tuple of str. What `hand_over` may be.
        default_hand_over, default_sharing, default_partition: str. What
            `hand_over`, `sharing` and `partition` are if the constructor was
            not told.
        interchangeable: tuple of str. Constructor keywords in which the
            model and a block loaded into it may differ.
    """  # noqa: E501

    ema_momentum: float | None = None
    layers_keyword = "num_layers"
    remat_last = False
    keeps_shape = True
    hand_overs: tuple[str, ...] = ("signal", "state", "state_alone")
    default_hand_over = "signal"
    default_sharing = "all"
    default_partition = "equal_probability"
    interchangeable: tuple[str, ...] = (
        "name",
        "seed",
        "sampler",
        "dtype",
        "overlap",
        "remat",
    )

    # The parts.

    @abc.abstractmethod
    def condition_spec(self) -> Any:
        """`keras.KerasTensor` of the condition, with batch size None.

        The result is a tree of them if `fit` takes several inputs, and None if
        the network sees nothing but the noisy signal.
        """

    @abc.abstractmethod
    def make_target(self) -> Target:
        """`Target` of the clean signal, as `layers.LabelEmbedding`."""

    @abc.abstractmethod
    def make_stem(self) -> keras.layers.Layer:
        """Layer from the scaled noisy signal `(B, ...)` to the first state."""

    @abc.abstractmethod
    def make_layer(self, index: int) -> keras.layers.Layer:
        """Residual layer `index`, from 0 to `num_layers - 1`."""

    def make_readout(self) -> keras.layers.Layer:
        """Layer from the last state to the shape of the clean signal.

        It defaults to a layer norm, for states that have this shape.
        """
        return keras.layers.LayerNormalization(name="readout")

    def make_head(self) -> keras.layers.Layer:
        """Layer from the denoised signal to the prediction the loss sees.

        By default the prediction is the denoised signal itself.
        """
        return keras.layers.Identity(dtype="float32", name="head")

    def make_noise_embedding(self) -> keras.layers.Layer:
        """Layer from `c_noise`, float32 `(B,)`, to `(B, noise_dim)`."""
        return NoiseEmbedding(64, name="noise_embedding")

    def make_shell(self, target: Target) -> Shell:
        """`Shell` of the four layers around the residual ones.

        Override it if one of these layers needs the weights of another.

        Args:
            target: the network's `Target`.
        """
        return Shell(
            noise_embedding=self.make_noise_embedding(),
            stem=self.make_stem(),
            readout=self.make_readout(),
            head=self.make_head(),
        )

    def make_average(self) -> MovingAverage | None:
        """`layers.MovingAverage` of the weights, or None for no averages."""
        if self.ema_momentum is None:
            return None
        return MovingAverage(self.ema_momentum, name="average")

    # The method.

    def make_noise(self) -> Noise:
        """`Noise`, by default the paper's log-normal distribution."""
        return LogNormalNoise()

    def make_preconditioning(self) -> Preconditioning:
        """`Preconditioning`, by default EDM's with the paper's `sigma_data`."""
        return EDMPreconditioning()

    def make_sampler(self) -> Sampler:
        """`Sampler` that `predict` uses if the constructor was given none."""
        if self.reference:
            return EulerSampler(grid="equal_mass", start="noise")
        return EulerSampler()

    def default_loss_weighting(self) -> str:
        """`"none"`, or the reference's weighting with `reference=True`."""
        return "batch_mean" if self.reference else "none"

    # The meaning of a batch.

    def batch_spec(self) -> tuple:
        """Tuple of `keras.KerasTensor` of the arguments of `fit`."""
        spec = self.condition_spec()
        if spec is None:
            shape = self.make_target().signal_shape
            return (keras.KerasTensor((None, *shape)),)
        return spec, keras.KerasTensor((None,), dtype="int32")

    def split(self, x: Any, y: Any) -> tuple[Any, Any]:
        """`(clean, condition)` of a batch `(x, y)` as given to `fit`.

        `clean` is the input of the target. By default `y` is the clean signal
        and `x` the condition, or `x` the clean signal if there is no
        condition.
        """
        if self.condition_spec() is None:
            return x, None
        return y, self.condition_of(x)

    def generates_input(self) -> bool:
        """Whether the clean signal is `x`, so that there is no `y` to predict.

        The end-to-end twin is then the same network with one block.
        """
        own = type(self).split is not Network.split
        return own or self.condition_spec() is None

    def condition_of(self, x: Any) -> Any:
        """Condition for an input of `predict`, by default the input itself."""
        return x

    def is_condition(self, x: Any) -> bool:
        """Returns False for data that `predict` does not take.

        `evaluate` calls the model on the data of `fit`, for which a generative
        model has no prediction.
        """
        return self.condition_spec() is not None

    def null_condition(self, condition: Any) -> Any:
        """Empty condition for guidance, which is zeros by default."""
        return tree.map_structure(ops.zeros_like, condition)

    def batch_size_of(self, x: Any) -> Any:
        """Number of examples in `x`, an int where it is known."""
        return ops.shape(tree.flatten(x)[0])[0]

    def check_targets(self, x: Any, y: Any) -> None:
        """Raises a ValueError if there is no target to learn from."""
        if self.condition_spec() is None and y is not None:
            raise ValueError(
                "The network sees no condition. Received: y. "
                "Pass the data alone, `fit(x)`, or define `condition_spec`."
            )
        if self.split(x, y)[0] is None:
            raise ValueError(
                "Training needs targets. Received: y=None. "
                "Pass labels, `fit(x, y)`."
            )

    def check_data(self, x: Any, y: Any = None) -> None:
        """Raises a ValueError for inputs or targets that do not fit."""
        spec = self.condition_spec()
        clean, condition = None, self.condition_of(x)
        if y is not None or spec is None:
            clean, condition = self.split(x, y)
        if spec is not None:
            check_condition(condition, spec)
        if clean is not None:
            self.target.check(ops.convert_to_numpy(clean))


def check_spec(spec):
    """Raises a ValueError unless a condition's spec is one, or None."""
    for leaf in tree.flatten(spec):
        if leaf is None:
            continue
        shape = getattr(leaf, "shape", None)
        if not isinstance(leaf, keras.KerasTensor) or not shape or shape[0]:
            raise ValueError(
                "A condition is described by a `keras.KerasTensor` whose first "
                f"size is None, for the batch, or a tree of them. Received: "
                f"{_shown(spec)}. Write `keras.KerasTensor((None, ...))`, with "
                "the sizes of one example."
            )


def _shown(spec):
    """What was given for a spec; of an array the shape alone."""
    shape = getattr(spec, "shape", None)
    if shape is None or isinstance(spec, keras.KerasTensor):
        return repr(spec)
    return f"an array of shape {tuple(shape)}"


def check_condition(condition, spec):
    """Raises a ValueError unless a condition has its spec's nest and shapes."""
    try:
        tree.assert_same_paths(condition, spec)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The input must be {_described(spec)}. Received: "
            f"{_described(condition)}. Pass what the model was built for."
        ) from error
    arrays, specs = tree.flatten(condition), tree.flatten(spec)
    for array, wanted in zip(arrays, specs, strict=True):
        check_array(array, wanted)


def _described(data):
    """In words, what is nested in data: its keys, or the number of parts."""
    if isinstance(data, dict):
        return f"a dict of {', '.join(map(repr, data))}"
    if isinstance(data, (list, tuple)):
        return f"a {type(data).__name__} of {len(data)}"
    if hasattr(data, "shape"):
        return "one array"
    return f"a {type(data).__name__}"
