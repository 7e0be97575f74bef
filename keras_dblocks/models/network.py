"""What a network is made of: the contract that a subclass fills in."""

import abc

import keras
from keras import ops, tree

from keras_dblocks.checks import check_array
from keras_dblocks.contracts import Contract
from keras_dblocks.diffusion.log_normal import LogNormalNoise
from keras_dblocks.diffusion.preconditioning import EDMPreconditioning
from keras_dblocks.diffusion.samplers.euler import EulerSampler
from keras_dblocks.layers import MovingAverage, NoiseEmbedding
from keras_dblocks.models.parts import Shell


class Network(Contract):
    """The parts of a network, and what is what in its batches.

    A subclass of `DiffusionBlocks` must define `condition_spec`,
    `make_target`, `make_stem` and `make_layer`; everything else has a default.
    All hooks are called on the host, `make_...` once for each layer that is
    made:

    | hook | returns | called |
    |---|---|---|
    | `condition_spec` | `keras.KerasTensor`, tree of them, or None | often |
    | `make_target` | `Target`, the clean signal | once |
    | `make_stem` | layer: scaled noisy signal to the first state | once, or once a block |
    | `make_layer(index)` | layer: state to a state of the same shape | once an index |
    | `make_readout` | layer: last state to the clean signal's shape | as the stem |
    | `make_head` | layer: denoised signal to the prediction | as the stem |
    | `make_noise_embedding` | layer: `c_noise` `(B,)` to `(B, noise_dim)` | as the stem |
    | `make_shell(target)` | `Shell` of the four, where one needs another | as the stem |
    | `make_noise`, `make_preconditioning`, `make_sampler` | the method's parts | once |

    Parts are made once for the whole network with `sharing="all"`, once a
    block with `sharing="targets"`. A part's `call` gets its input, and those
    of these that it names: `noise`, the embedded noise level `(B, noise_dim)`;
    `signal`, the noisy signal `(B, ...)`; `condition`, what the block also
    sees; `training`. A residual layer that names no `noise` is wrapped in
    `layers.NoiseModulation`, which scales and shifts its input by the level.

    A network with skip connections from one layer to a much later one (a
    U-Net) cannot be cut between the two; the whole U-Net as one layer can.

    Attributes:
        ema_momentum: float or None. Of the moving average of the weights.
        layers_keyword: str. Constructor keyword of the number of residual
            layers, for plans of memory.
        remat_last: bool. `remat` computes a block's last layer again too:
            where much comes after it.
        interchangeable: tuple of str. Constructor keywords in which the
            model and a block loaded into it may differ.
    """  # noqa: E501

    ema_momentum = None
    layers_keyword = "num_layers"
    remat_last = False
    interchangeable = ("name", "seed", "sampler", "dtype", "overlap", "remat")

    # The parts.

    @abc.abstractmethod
    def condition_spec(self):
        """`keras.KerasTensor` of the condition, batch size None.

        A tree of them if `fit` takes several inputs; None if the network sees
        nothing but the noisy signal.
        """

    @abc.abstractmethod
    def make_target(self):
        """`Target`, the clean signal; `layers.LabelEmbedding` for labels."""

    @abc.abstractmethod
    def make_stem(self):
        """Layer from the scaled noisy signal `(B, ...)` to the first state."""

    @abc.abstractmethod
    def make_layer(self, index):
        """Residual layer `index`, 0 to `num_layers - 1`: state to state."""

    def make_readout(self):
        """Layer from the last state to the shape of the clean signal.

        Defaults to a layer norm, for states of that shape.
        """
        return keras.layers.LayerNormalization(name="readout")

    def make_head(self):
        """Layer from the denoised signal to the prediction.

        What the loss sees. Defaults to the denoised signal itself.
        """
        return keras.layers.Identity(dtype="float32", name="head")

    def make_noise_embedding(self):
        """Layer from `c_noise`, float32 `(B,)`, to `(B, noise_dim)`."""
        return NoiseEmbedding(64, name="noise_embedding")

    def make_shell(self, target):
        """The four layers around the residual ones, a `Shell`.

        To be overridden where one layer needs another's weights.

        Args:
            target: the network's `Target`.
        """
        return Shell(
            noise_embedding=self.make_noise_embedding(),
            stem=self.make_stem(),
            readout=self.make_readout(),
            head=self.make_head(),
        )

    def make_average(self):
        """`layers.MovingAverage` of weights, or None for no averages."""
        if self.ema_momentum is None:
            return None
        return MovingAverage(self.ema_momentum, name="average")

    # The method.

    def make_noise(self):
        """`Noise`; the paper's log-normal distribution by default."""
        return LogNormalNoise()

    def make_preconditioning(self):
        """`Preconditioning`; EDM's, with the paper's `sigma_data`."""
        return EDMPreconditioning()

    def make_sampler(self):
        """`Sampler` that `predict` uses where the constructor is given none."""
        if self.reference:
            return EulerSampler(grid="equal_mass", start="noise")
        return EulerSampler()

    def default_loss_weighting(self):
        """`"none"` for cross-entropy; the reference's own under it."""
        return "batch_mean" if self.reference else "none"

    # What is what in a batch.

    def batch_spec(self):
        """Tuple of `keras.KerasTensor`, what `fit` takes: inputs, labels."""
        return self.condition_spec(), keras.KerasTensor((None,), dtype="int32")

    def split(self, x, y):
        """`(clean, condition)` of a batch `(x, y)` as given to `fit`.

        `clean` is what the target takes. By default `y` is learned from `x`.
        """
        return y, self.condition_of(x)

    def condition_of(self, x):
        """Condition from the input of `predict`; the input by default."""
        return x

    def is_condition(self, x):
        """False for data that `predict` does not take.

        `evaluate` calls the model on what `fit` takes; a generative model has
        no prediction for it.
        """
        return True

    def null_condition(self, condition):
        """Condition that says nothing, for guidance; zeros by default."""
        return tree.map_structure(ops.zeros_like, condition)

    def batch_size_of(self, x):
        """Number of examples in `x`: int where it is known."""
        return ops.shape(tree.flatten(x)[0])[0]

    def check_targets(self, x, y):
        """Raises a ValueError when there is nothing to learn from."""
        if self.split(x, y)[0] is None:
            raise ValueError(
                "Training needs targets. Received: y=None. "
                "Pass labels, `fit(x, y)`."
            )

    def check_data(self, x, y=None):
        """Raises a ValueError for inputs or targets of another kind."""
        clean, condition = (None, x) if y is None else self.split(x, y)
        spec = self.condition_spec()
        if spec is not None:
            check_condition(condition, spec)
        if clean is not None:
            self.target.check(ops.convert_to_numpy(clean))


def check_condition(condition, spec):
    """Raises a ValueError unless a condition is nested and shaped like spec."""
    arrays, specs = tree.flatten(condition), tree.flatten(spec)
    alike = tree.is_nested(condition) == tree.is_nested(spec)
    if not alike or len(arrays) != len(specs):
        raise ValueError(
            "The input must be nested like `condition_spec()`. Received: "
            f"a {type(condition).__name__} with {len(arrays)} arrays for "
            f"{len(specs)}. Pass one array as it is, `fit(x, y)`."
        )
    for array, wanted in zip(arrays, specs, strict=True):
        check_array(array, wanted)
