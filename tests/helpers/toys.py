"""What several tests share: tiny networks, and the maths written once more."""

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_dblocks import DiffusionBlocks, Target
from keras_dblocks.diffusion.log_normal import LogNormalNoise

# Numbers of blocks and steps, and grids, with which each block is called at
# least once: docs/method.md#routing
CHAINS = [
    (blocks, steps, grid)
    for blocks in (2, 3, 4, 6)
    for steps in sorted({blocks, blocks + 1, max(4, blocks), 50})
    for grid in ("upper_edges", "equal_mass")
]


def noise_of(config):
    names = ("p_mean", "p_std", "sigma_min", "sigma_max")
    return LogNormalNoise(**{name: config[name] for name in names})


def log_sigma(noise):
    """scipy's distribution of `ln sigma`."""
    edges = np.log([noise.sigma_min, noise.sigma_max])
    edges = (edges - noise.p_mean) / noise.p_std
    return stats.truncnorm(*edges, loc=noise.p_mean, scale=noise.p_std)


def wanted_route(levels, num_blocks):
    """Half-open routing to equal ranges, written a second time."""
    share = 1.0 - LogNormalNoise().cdf(np.asarray(levels, "float64"))
    blocks = np.floor(share * num_blocks + 1e-6)
    return np.minimum(blocks, num_blocks - 1).astype(int)


@keras.saving.register_keras_serializable("tests")
class Vector(Target):
    """A clean signal `(B, dim)` that is its own estimate."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim

    @property
    def signal_shape(self):
        return (self.dim,)

    def build(self, y_shape=None):
        """Nothing to build."""

    def call(self, y):
        return y

    def bridge(self, prediction):
        return prediction

    def loss(self, y, prediction, noisy, level):
        return ops.mean((prediction - y) ** 2, -1)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}


class Stem(keras.layers.Layer):
    """Hands `c_in z` on."""

    def call(self, x, condition):
        return x


class Formula(keras.layers.Layer):
    """Layer `index` computes `formula(index, x, c_noise)`."""

    def __init__(self, formula, index):
        super().__init__()
        self.formula = formula
        self.index = index

    def call(self, x, noise):
        return self.formula(self.index, x, ops.expand_dims(noise, -1))


class Toy(DiffusionBlocks):
    """Blocks of layers `formula(index, x, c_noise)` on vectors `(B, dim)`.

    With one layer a block, `D = c_skip z + c_out formula(i, c_in z, c_noise)`.
    """

    def __init__(self, formula, dim, noise=None, **kwargs):
        self._noise = noise
        super().__init__(**kwargs)
        self.formula = formula
        self.dim = dim

    def make_noise(self):
        return self._noise or super().make_noise()

    def condition_spec(self):
        return keras.KerasTensor((None, 1))

    def make_target(self):
        return Vector(self.dim)

    def make_noise_embedding(self):
        return keras.layers.Identity(autocast=False)

    def make_stem(self):
        return Stem()

    def make_layer(self, index):
        return Formula(self.formula, index)

    def make_readout(self):
        return keras.layers.Identity()
