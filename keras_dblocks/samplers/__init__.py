"""Public names of the samplers; see `keras_dblocks.diffusion.samplers`."""

from keras_dblocks.diffusion.samplers import *  # noqa: F403
from keras_dblocks.diffusion.samplers import __all__  # noqa: F401
