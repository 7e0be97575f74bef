"""DiT in the published sizes, in the manner of `keras.applications`."""

from keras_dblocks.applications.images.sizes import check_square

from .model import DiT


def _sized(name, hidden_dim, num_layers, num_heads, num_blocks=3):
    default = num_blocks

    def build(
        input_shape=(32, 32, 4), classes=1000, num_blocks=default, **kwargs
    ):
        side, channels = check_square(input_shape)
        # Four channels are latents, which have no range.
        options = {"patch_size": 2, "name": name.lower()}
        options["value_range"] = None if channels == 4 else (-1.0, 1.0)
        return DiT(
            image_size=side,
            num_classes=classes,
            channels=channels,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            num_blocks=num_blocks,
            **{**options, **kwargs},
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""{name}: {num_layers} layers of width {hidden_dim}.

    Built at first use, with random weights.

    Args:
        input_shape: tuple `(side, side, channels)`; 4 channels are latents.
        classes: int.
        num_blocks: int. Defaults to `{num_blocks}`, equal in layers.
        kwargs: other keywords of `DiT`, such as `patch_size=4`.

    References:
     - [DiT](https://arxiv.org/abs/2212.09748), Table 1
    """
    return build


DiTS2 = _sized("DiTS2", 384, 12, 6)
DiTB2 = _sized("DiTB2", 768, 12, 12)
DiTL2 = _sized("DiTL2", 1024, 24, 16)
# 28 layers do not divide by 3.
DiTXL2 = _sized("DiTXL2", 1152, 28, 16, num_blocks=4)
