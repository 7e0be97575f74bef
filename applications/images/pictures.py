"""Pictures of generated images: grids, and trajectories of the sampler."""

import keras
import numpy as np

from .files import atomic

# N images, H height, W width, C channels. Pixels in [-1, 1].


def grid_of(images, columns):
    """Arranges images in a grid, row by row.

    Args:
        images: array `(N, H, W, C)`.
        columns: int, images per row.

    Returns:
        One image `(rows * H, columns * W, C)`. The last row is filled up with
        black images.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    shape = (rows * columns, height, width, channels)
    filled = np.full(shape, -1.0, "float32")
    filled[:count] = images
    filled = filled.reshape(rows, columns, height, width, channels)
    size = (rows * height, columns * width, channels)
    return filled.transpose(0, 2, 1, 3, 4).reshape(size)


def _visible_channels(images):
    """Returns the first three channels, or the first if there are fewer."""
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def save_grid(path, images, columns=10, zoom=4):
    """Writes a PNG file with a grid of images.

    Args:
        path: of the `.png`. The file appears only when it is complete.
        images: array `(N, H, W, C)` in [-1, 1]. Of latents, the first three
            channels are shown.
        columns: int, images per row, if there are as many.
        zoom: int, the width of each pixel of an image in the picture.
    """
    picture = grid_of(
        np.clip(_visible_channels(images), -1.0, 1.0), min(columns, len(images))
    )
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    with atomic(path) as temporary:
        keras.utils.save_img(
            temporary, (picture + 1.0) * 127.5, file_format="png", scale=False
        )


def save_trajectory(path, trajectory, example=0, columns=10):
    """Draws the noisy and the denoised images of the steps of the sampler.

    Args:
        path: of the `.png`.
        trajectory: list of steps that `generate(..., return_trajectory=True)`
            returned.
        example: int, the index of the image.
        columns: int, the number of steps that are shown, evenly spaced.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.linspace(0, len(trajectory) - 1, columns).round().astype(int)
    steps = [trajectory[i] for i in sorted(set(chosen))]
    figure = Figure(figsize=(1.3 * len(steps), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(steps), squeeze=False)
    for column, step in zip(axes.T, steps, strict=True):
        column[0].set_title(
            f"block {step['block']}\n$\\sigma$ = {step['level']:.3g}",
            fontsize=9,
        )
        noisy = step["noisy"][example]
        # The scale of the network's input keeps the noise in the range of
        # the picture.
        scale = np.sqrt(step["level"] ** 2 + 0.25) / 0.5
        for axis, image in zip(
            column, (noisy / scale, step["denoised"][example]), strict=True
        ):
            picture = np.clip((_visible_channels(image) + 1.0) / 2.0, 0.0, 1.0)
            single = picture.shape[-1] == 1
            axis.imshow(
                picture[..., 0] if single else picture,
                cmap="gray" if single else None,
                vmin=0.0,
                vmax=1.0,
            )
            axis.set_axis_off()
    figure.text(0.0, 0.62, "noisy", rotation=90, fontsize=9)
    figure.text(0.0, 0.15, "denoised", rotation=90, fontsize=9)
    figure.savefig(path, dpi=120)
