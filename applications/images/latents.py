"""Latents of images, computed by a VAE of keras-hub, for latent diffusion.

    python -m keras_dblocks.applications.images.latents \\
        --data imagenet_256.npz --vae vae.keras --output imagenet_latents.npy
"""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.data import (
    DataUnavailable,
    ImageData,
    load_images,
)
from keras_dblocks.applications.data.sources import unavailable
from keras_dblocks.checks import check_array

from .features import check_images
from .files import atomic

MODULE = "keras_dblocks.applications.images.latents"

# N images, H height, W width, C channels; h, w, c those of the latents.
# A VAE is any object with methods `encode` and `decode` that apply Keras
# layers.


def load_vae(name="stable_diffusion_3_medium"):
    """Loads the VAE of a Stable Diffusion 3 preset, or a saved VAE.

    keras-hub 0.32 offers no VAE by itself, so that the 3 billion other weights
    of the preset are downloaded too. `load_vae().save("vae.keras")` saves the
    VAE alone. It encodes images 256x256x3 as latents 32x32x16; the VAE of the
    paper, sd-vae-ft-ema, as 32x32x4.

    Args:
        name: string, a preset of keras-hub or the path of a `.keras` file.
    """
    try:
        import keras_hub

        if str(name).endswith(".keras"):
            return keras.saving.load_model(name, compile=False)
        return keras_hub.models.StableDiffusion3Backbone.from_preset(name).vae
    except Exception as error:  # of kagglehub, requests or Keras
        raise unavailable(
            f"A VAE needs keras-hub and `{name}`, here or downloadable.",
            error,
            "Run `pip install keras-hub`, or pass a VAE saved elsewhere.",
        ) from error


def encode(vae, images, path, batch_size=32, sigma_data=0.5, verbose=1):
    """Computes and writes the standardised latents of images.

    The latents z of the VAE are written as `(z - shift) * scale`, which has
    mean 0 and standard deviation `sigma_data` in each channel. `shift` and
    `scale` are written to a file of the same name that ends in .txt.

    Args:
        vae: see `load_vae`. If it samples, each image gets one sample.
        images: array `(N, H, W, C)`, floats in [-1, 1] or uint8. A memory map
            is read batch by batch.
        path: a `.npy` file.
        sigma_data: float, `sigma_data` of the model that will be trained on
            the latents.
        verbose: 1 for a progress bar.

    Returns:
        The same as `load_latents`.
    """
    check_array(images[:1], keras.KerasTensor((None,) * 4), "Images")
    encoder = _model(vae.encode, images.shape[1:])
    progress = keras.utils.Progbar(len(images), verbose=verbose)
    shape = (len(images), *encoder.output_shape[1:])
    path, constants = Path(path), Path(path).with_suffix(".txt")
    with atomic(path) as temporary:
        latents = np.lib.format.open_memmap(temporary, "w+", "float32", shape)
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if batch.dtype == "uint8":
                batch = batch / np.float32(127.5) - 1
            check_images(batch, encoder.input_shape, limit=1.001)
            batch = encoder.predict_on_batch(batch)
            check_array(batch, encoder.output, f"Latents from image {start}")
            latents[start : start + batch_size] = batch
            progress.add(len(batch))
        shift, scale = _standardise(latents, sigma_data)
        latents.flush()
        # The old constants do not belong to the new latents.
        constants.unlink(missing_ok=True)
    np.savetxt(constants, [shift, scale])
    return load_latents(path)


def load_latents(path):
    """Loads latents that `encode` wrote, and their constants.

    Returns:
        `(latents, shift, scale)` of shapes `(N, h, w, c)`, `(c,)` and `(c,)`.
        The latents are a memory map: those of ImageNet take 21 GB at 32x32x4.
    """
    constants = Path(path).with_suffix(".txt")
    shift, scale = np.loadtxt(constants, "float32", ndmin=2)
    return np.load(path, mmap_mode="r"), shift, scale


def load_latent_data(path):
    """Loads latents and labels, which are in `.labels.npy` beside them.

    Every hundredth example belongs to the test split.

    Returns:
        An `ImageData`.
    """
    path = Path(path)
    try:
        latents, _, _ = load_latents(path)
        labels = np.load(path.with_suffix(".labels.npy"))
    except OSError as error:
        raise unavailable(
            f"`{path}` needs its constants and labels beside it.",
            error,
            f"Run `python -m {MODULE} --help`.",
        ) from error
    test = np.arange(len(labels)) % 100 == 99
    return ImageData(
        latents[~test],
        labels[~test].astype("int32"),
        latents[test],
        labels[test].astype("int32"),
        num_classes=int(labels.max()) + 1,
        name=path.stem,
        mean=np.zeros(latents.shape[-1], "float32"),
        std=np.ones(latents.shape[-1], "float32"),
    )


def main(argv=None):
    """Writes the latents and labels of a set of images.

    Returns:
        Exit status: 0, or 2 for data that are not available and for arguments
        that do not fit together.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    text = "images: a name or file that the training program accepts"
    add("--data", metavar="NAME", required=True, help=text)
    text = "preset of keras-hub or saved VAE (default: %(default)s)"
    name = "stable_diffusion_3_medium"
    add("--vae", metavar="NAME", default=name, help=text)
    text = "the .npy file that is written"
    add("--output", metavar="FILE", type=Path, required=True, help=text)
    text = "images per step (default: %(default)s)"
    add("--batch-size", metavar="N", type=int, default=32, help=text)
    args = parser.parse_args(argv)
    try:
        data = load_images(args.data).with_signed_pixels()
        images = data.x_train
        encode(load_vae(args.vae), images, args.output, args.batch_size)
        np.save(args.output.with_suffix(".labels.npy"), data.y_train)
    except (DataUnavailable, ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"{len(images)} latents in {args.output}")
    return 0


def decoder(vae, shift, scale, batch_size=32):
    """Makes a compiled function from standardised latents to images.

    It can be passed to `generate(decoder=...)`.

    Args:
        vae: see `load_vae`.
        shift, scale: arrays `(c,)`, as `load_latents` returns them.
        batch_size: int.

    Returns:
        A function from latents `(N, h, w, c)` to float32 images
        `(N, H, W, C)` in [-1, 1].
    """
    model = _model(vae.decode, (None, None, len(shift)))

    def decode_batches(latents):
        z = np.asarray(latents / scale + shift, "float32")
        images = model.predict(z, batch_size=batch_size, verbose=0)
        return np.clip(images.astype("float32"), -1.0, 1.0)

    return decode_batches


def decode(vae, latents, shift, scale, batch_size=32):
    """Decodes latents once. `decoder` is faster for repeated calls."""
    return decoder(vae, shift, scale, batch_size)(latents)


def _model(function, shape):
    x = keras.Input(shape, dtype="float32")
    return keras.Model(x, function(x))


def _standardise(latents, sigma_data):
    # In place, and with `dtype` numpy converts the array in pieces, so that
    # there is no copy of the whole set.
    shift = latents.mean((0, 1, 2), dtype="float64")
    square = np.einsum("nhwc,nhwc->c", latents, latents, dtype="float64")
    square /= latents[..., 0].size
    variance = square - shift**2
    if not (variance > 1e-9 * square).all():
        raise ValueError(
            "Latents must vary in every channel. Received: variances "
            f"{variance}. Encode more images, or check the VAE's weights."
        )
    scale = sigma_data / np.sqrt(variance)
    latents -= shift.astype("float32")
    latents *= scale.astype("float32")
    return shift, scale


if __name__ == "__main__":
    sys.exit(main())
