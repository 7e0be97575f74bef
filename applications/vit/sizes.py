"""ViT in the published sizes, in the manner of `keras.applications`."""

import functools

from keras_dblocks.applications.images.sizes import published_size

from .model import ViT

_sized = functools.partial(
    published_size,
    ViT,
    input_shape=(224, 224, 3),
    options=lambda channels: {"patch_size": 16},
    references="""\
     - [ViT](https://arxiv.org/abs/2010.11929), Table 1
     - [DeiT](https://arxiv.org/abs/2012.12877), Table 1""",
)

ViTTi16 = _sized("ViTTi16", 192, 12, 3)
ViTS16 = _sized("ViTS16", 384, 12, 6)
ViTB16 = _sized("ViTB16", 768, 12, 12)
ViTL16 = _sized("ViTL16", 1024, 24, 16)
