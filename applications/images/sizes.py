"""Sizes of transformers on image patches: checks, and published sizes."""

from collections.abc import Callable
from typing import Any

from keras_dblocks import DiffusionBlocks
from keras_dblocks.checks import check_sizes

MOST_PATCHES = 64  # of an image, unless a size is asked for


def check_patches(
    image_size,
    patch_size,
    hidden_dim,
    num_heads,
    num_classes,
    channels,
    intermediate_dim,
):
    """Raises a `ValueError` for sizes that do not fit together."""
    check_sizes(
        optional=["intermediate_dim"],
        num_classes=num_classes,
        channels=channels,
        intermediate_dim=intermediate_dim,
        image_size=image_size,
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        num_heads=num_heads,
    )
    if image_size % patch_size:
        sizes = _dividing(image_size)
        raise ValueError(
            "`patch_size` must divide `image_size`. Received: "
            f"patch_size={patch_size} for images of {image_size}. "
            f"Resize the images, or choose `patch_size` among {sizes}."
        )
    if hidden_dim % num_heads:
        raise ValueError(
            "`num_heads` must divide `hidden_dim`. Received: "
            f"num_heads={num_heads} for hidden_dim={hidden_dim}. "
            "Change either."
        )


def patch_size_for(image_size, patch_size):
    """A patch size at which images do not become very long sequences.

    Args:
        image_size: int.
        patch_size: int, which is returned if it makes `MOST_PATCHES` of an
            image at most.

    Returns:
        int, else the smallest that makes no more of them, and 16 at least;
        `patch_size` if there is none.
    """

    def count(size):
        return (image_size / size) ** 2

    if count(patch_size) <= MOST_PATCHES:
        return patch_size
    sizes = _dividing(image_size)
    fitting = [n for n in sizes if 16 <= count(n) <= MOST_PATCHES]
    return fitting[0] if fitting else patch_size


def _dividing(image_size):
    """The sizes of patches that divide an image, in pixels."""
    return [n for n in range(1, image_size + 1) if image_size % n == 0]


def published_size(
    model_class: type[Any],
    name: str,
    hidden_dim: int,
    num_layers: int,
    num_heads: int,
    *,
    input_shape: tuple[int, int, int],
    references: str,
    num_blocks: int = 3,
    options: Callable[[int], dict[str, Any]] | None = None,
) -> Callable[..., DiffusionBlocks]:
    """Makes a constructor of one published size of a model.

    Its arguments are those of the models in `keras.applications`.

    Args:
        model_class: subclass of `DiffusionBlocks` for square images.
        name: string, the name of the constructor; the model's name in lower
            case.
        hidden_dim, num_layers, num_heads: ints, the published size.
        input_shape: tuple `(side, side, channels)`, the default.
        references: string, a Markdown list for the docstring.
        num_blocks: int, the default.
        options: function from the number of channels to a dict of other
            default keywords of `model_class`.

    Returns:
        A function `(input_shape, classes, num_blocks, **kwargs)` that returns
        a model.
    """
    shape, blocks = input_shape, num_blocks
    each, keywords = num_layers // num_blocks, model_class.__name__
    size = {"hidden_dim": hidden_dim, "num_layers": num_layers}
    size["num_heads"] = num_heads

    def build(
        input_shape: tuple[int, int, int] = shape,
        classes: int = 1000,
        num_blocks: int = blocks,
        **kwargs: Any,
    ) -> DiffusionBlocks:
        side, channels = _check_square(input_shape)
        defaults = options(channels) if options else {}
        return model_class(
            image_size=side,
            num_classes=classes,
            channels=channels,
            num_blocks=num_blocks,
            **size,
            **{"name": name.lower(), **defaults, **kwargs},
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""{name}: {num_layers} layers of width {hidden_dim}.

    The model has random weights, which are created at its first use.

    Args:
        input_shape: tuple `(side, side, channels)`. Defaults to `{shape}`.
        classes: int, the number of classes. Defaults to `1000`.
        num_blocks: int. Defaults to `{blocks}`: {each} layers each.
        kwargs: other keywords of `{keywords}`, such as `patch_size`.

    Example:

    ```python
    model = {name}(input_shape=(32, 32, {shape[2]}), classes=10)
    ```

    References:
{references}
    """
    return build


def _check_square(input_shape):
    height, width, channels = input_shape
    if height != width:
        raise ValueError(
            "`input_shape` must be that of square images. "
            f"Received: input_shape={input_shape}. Crop or resize them."
        )
    return height, channels
