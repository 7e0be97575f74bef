"""Latents of images by a keras-hub VAE, for diffusion at `sigma_data`.

    python -m keras_dblocks.applications.images.latents \\
        --data imagenet_256.npz --vae vae.keras --out imagenet_latents.npy
"""

import argparse
import os
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

MODULE = "keras_dblocks.applications.images.latents"

# N images, H height, W width, C channels; h, w, c those of the latents.
# A VAE is any object whose `encode` and `decode` apply Keras layers.


def load_vae(name="stable_diffusion_3_medium"):
    """The VAE of a Stable Diffusion 3 preset of keras-hub, or a saved one.

    keras-hub 0.32 has none by itself: the preset's 3 billion other weights
    come with it. `load_vae().save("vae.keras")` keeps it alone. It makes
    32x32x16 of 256x256x3, the paper's (sd-vae-ft-ema) 32x32x4.
    """
    try:
        import keras_hub

        if str(name).endswith(".keras"):
            return keras.saving.load_model(name, compile=False)
        return keras_hub.models.StableDiffusion3Backbone.from_preset(name).vae
    except Exception as error:  # kagglehub, requests: no common class
        raise unavailable(
            f"A VAE needs keras-hub and `{name}`, here or downloadable.",
            error,
            "Run `pip install keras-hub`, or pass a VAE saved elsewhere.",
        ) from error


def encode(vae, images, path, batch_size=32, sigma_data=0.5, verbose=1):
    """Writes the latents of all images, standardised.

    `(z - shift) * scale` has mean 0 and standard deviation `sigma_data` in
    every channel. Both are kept beside, in a file that ends in .txt.

    Args:
        vae: see `load_vae`. One that samples gives one sample an image.
        images: array `(N, H, W, C)`, floats in [-1, 1] or uint8; a memory map
            is read batch by batch.
        path: a `.npy` file.
        sigma_data: float, that of the model which is to learn the latents.
        verbose: 1 for a progress bar.

    Returns what `load_latents` does.
    """
    check_array(images[:1], keras.KerasTensor((None,) * 4), "Images")
    encoder = _model(vae.encode, images.shape[1:])
    progress = keras.utils.Progbar(len(images), verbose=verbose)
    shape = (len(images), *encoder.output_shape[1:])
    path, constants = Path(path), Path(path).with_suffix(".txt")
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        latents = np.lib.format.open_memmap(beside, "w+", "float32", shape)
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            if batch.dtype == "uint8":
                batch = batch / np.float32(127.5) - 1
            check_images(batch, encoder.input_shape, most=1.001)
            batch = encoder.predict_on_batch(batch)
            check_array(batch, encoder.output, f"Latents from image {start}")
            latents[start : start + batch_size] = batch
            progress.add(len(batch))
        shift, scale = _standardise(latents, sigma_data)
        latents.flush()
        constants.unlink(missing_ok=True)  # those of other latents
        os.replace(beside, path)
        np.savetxt(constants, [shift, scale])
    finally:
        beside.unlink(missing_ok=True)
    return load_latents(path)


def load_latents(path):
    """`(latents, shift, scale)` of shapes `(N, h, w, c)`, `(c,)`, `(c,)`.

    The latents are a memory map. ImageNet's are 21 GB at 32x32x4.
    """
    constants = Path(path).with_suffix(".txt")
    shift, scale = np.loadtxt(constants, "float32", ndmin=2)
    return np.load(path, mmap_mode="r"), shift, scale


def load_latent_data(path):
    """`ImageData` of latents and of labels in `.labels.npy` beside them.

    Every hundredth is held out as test data.
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
        Exit status: 0, or 2 for what cannot be had or does not fit.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    text = "images, as the train program takes them"
    add("--data", metavar="NAME", required=True, help=text)
    text = "preset of keras-hub or a saved VAE (default: %(default)s)"
    add("--vae", default="stable_diffusion_3_medium", help=text)
    add("--out", type=Path, required=True, help="a .npy file")
    add("--batch-size", type=int, default=32)
    args = parser.parse_args(argv)
    try:
        data = load_images(args.data)
        images = 2.0 * (data.x_train * data.std + data.mean) - 1.0
        images = images.clip(-1.0, 1.0).astype("float32")
        encode(load_vae(args.vae), images, args.out, args.batch_size)
        np.save(args.out.with_suffix(".labels.npy"), data.y_train)
    except (DataUnavailable, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"{len(images)} latents in {args.out}")
    return 0


def decoder(vae, shift, scale, batch_size=32):
    """Compiled function from latents to images, for `generate(decoder=...)`.

    Images are float32 `(N, H, W, C)` in [-1, 1].
    """
    model = _model(vae.decode, (None, None, len(shift)))

    def decode_batches(latents):
        z = np.asarray(latents / scale + shift, "float32")
        images = model.predict(z, batch_size=batch_size, verbose=0)
        return np.clip(images.astype("float32"), -1.0, 1.0)

    return decode_batches


def decode(vae, latents, shift, scale, batch_size=32):
    """Images of latents, once; see `decoder`."""
    return decoder(vae, shift, scale, batch_size)(latents)


def _model(function, shape):
    x = keras.Input(shape, dtype="float32")
    return keras.Model(x, function(x))


def _standardise(latents, sigma_data):
    # In place, and `dtype` casts piece by piece: no copy of the whole set.
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
