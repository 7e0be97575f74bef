"""ViT in the published sizes, in the manner of `keras.applications`."""

from keras_dblocks.applications.images.sizes import check_square

from .model import ViT


def _sized(name, hidden_dim, num_layers, num_heads):
    def build(input_shape=(224, 224, 3), classes=1000, num_blocks=3, **kwargs):
        side, channels = check_square(input_shape)
        return ViT(
            image_size=side,
            num_classes=classes,
            channels=channels,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            num_blocks=num_blocks,
            **{"patch_size": 16, "name": name.lower(), **kwargs},
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""{name}: {num_layers} layers of width {hidden_dim}.

    Built at first use, with random weights.

    Args:
        input_shape: tuple `(side, side, channels)`.
        classes: int.
        num_blocks: int. Defaults to `3`, of {num_layers // 3} layers each.
        kwargs: other keywords of `ViT`.

    References:
     - [ViT](https://arxiv.org/abs/2010.11929), Table 1
     - [DeiT](https://arxiv.org/abs/2012.12877), Table 1
    """
    return build


ViTTi16 = _sized("ViTTi16", 192, 12, 3)
ViTS16 = _sized("ViTS16", 384, 12, 6)
ViTB16 = _sized("ViTB16", 768, 12, 12)
ViTL16 = _sized("ViTL16", 1024, 24, 16)
