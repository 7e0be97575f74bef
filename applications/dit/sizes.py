"""DiT in the published sizes, in the manner of `keras.applications`."""

import functools

from keras_dblocks.applications.images.sizes import published_size

from .model import DiT


def _options(channels):
    # Images of four channels are latents, whose values have no fixed range.
    value_range = None if channels == 4 else (-1.0, 1.0)
    return {"patch_size": 2, "value_range": value_range}


_sized = functools.partial(
    published_size,
    DiT,
    input_shape=(32, 32, 4),
    options=_options,
    references="     - [DiT](https://arxiv.org/abs/2212.09748), Table 1",
)

DiTS2 = _sized("DiTS2", 384, 12, 6)
DiTB2 = _sized("DiTB2", 768, 12, 12)
DiTL2 = _sized("DiTL2", 1024, 24, 16)
# 3 blocks of equal depth are not possible with 28 layers.
DiTXL2 = _sized("DiTXL2", 1152, 28, 16, num_blocks=4)
