"""Pictures of generated images: a grid, and a trajectory through the blocks."""

import os
from pathlib import Path

import keras
import numpy as np

# N images, H height, W width, C channels. Pixels in [-1, 1].


def grid_of(images, columns):
    """Images side by side: `(N, H, W, C)` to one `(rows H, columns W, C)`.

    A last row that is not full ends in black.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    shape = (rows * columns, height, width, channels)
    filled = np.full(shape, -1.0, "float32")
    filled[:count] = images
    filled = filled.reshape(rows, columns, height, width, channels)
    size = (rows * height, columns * width, channels)
    return filled.transpose(0, 2, 1, 3, 4).reshape(size)


def shown(images):
    """The first one or three channels."""
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def save_grid(path, images, columns=10, zoom=4):
    """Writes a PNG of the images, `columns` in a row, each pixel `zoom` wide.

    Args:
        path: of the `.png`, written beside and renamed.
        images: array `(N, H, W, C)`; of latents three channels are shown.
        columns, zoom: ints.
    """
    picture = grid_of(np.clip(shown(images), -1.0, 1.0), columns)
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    path = Path(path)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    keras.utils.save_img(
        beside, (picture + 1.0) * 127.5, file_format="png", scale=False
    )
    os.replace(beside, path)


def save_trajectory(path, trajectory, example=0, columns=10):
    """Draws the states of one image on its way, with the block of each step.

    Args:
        path: of the `.png`.
        trajectory: what `generate(..., return_trajectory=True)` returned.
        example: int, which image.
        columns: int, at most so many steps are shown, evenly chosen.
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
        # At the scale of the network's input, so that the noise fits.
        scale = np.sqrt(step["level"] ** 2 + 0.25) / 0.5
        for axis, image in zip(
            column, (noisy / scale, step["denoised"][example]), strict=True
        ):
            picture = np.clip((shown(image) + 1.0) / 2.0, 0.0, 1.0)
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
