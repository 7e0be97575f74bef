"""Refusals of sizes no transformer on images can have."""

from keras_dblocks.checks import check_integer


def check_sizes(image_size, patch_size, hidden_dim, num_heads):
    """Refuses sizes a transformer on patches cannot have."""
    check_integer("image_size", image_size)
    check_integer("patch_size", patch_size)
    check_integer("hidden_dim", hidden_dim)
    check_integer("num_heads", num_heads)
    if image_size % patch_size:
        raise ValueError(
            "`patch_size` must divide `image_size`. Received: "
            f"patch_size={patch_size} for images of {image_size}. "
            "Resize the images or change the patches."
        )
    if hidden_dim % num_heads:
        raise ValueError(
            "`num_heads` must divide `hidden_dim`. Received: "
            f"num_heads={num_heads} for hidden_dim={hidden_dim}. "
            "Change either."
        )


def check_square(input_shape):
    """Side and channels of square images; others are refused."""
    height, width, channels = input_shape
    if height != width:
        raise ValueError(
            "`input_shape` must be that of square images. "
            f"Received: input_shape={input_shape}. Crop or resize them."
        )
    return height, channels
