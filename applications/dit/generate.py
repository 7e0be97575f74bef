"""Generates images from labels with a model or its saved blocks."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dblocks.applications.metrics import frechet_distance
from keras_dblocks.diffusion.samplers import Sampler
from keras_dblocks.models.one_at_a_time import SavedChain


class GeneratesImages:
    """`generate` and `evaluate` of a `DiffusionBlocks` on images."""

    def generate(
        self,
        labels: Any,
        num_steps: int = 50,
        guidance_scale: float | None = None,
        sampler: Sampler | str = "euler",
        grid: str | None = None,
        seed: int = 0,
        batch_size: int = 128,
        return_trajectory: bool = False,
        decoder: Callable[[Any], Any] | None = None,
        verbose: int = 0,
    ) -> Any:
        """Images of the given classes.

        Args:
            labels: ints `(N,)`, the class of each image.
            num_steps: int. Steps of the grid. Defaults to `50`.
            guidance_scale: float or None. Classifier-free guidance; the paper
                uses 2. None and 1 mean no guidance.
            sampler: `"euler"`, `"heun"` or `"stochastic"` (the last two with
                twice the calls), or a `samplers.Sampler`, whose own settings
                are then used.
            grid: see `samplers.noise_levels`. None takes EDM's grid, which
                measured best (README.md), or the upper edges if EDM's skips a
                block; with `reference=True` it takes equal mass.
            seed: int. Seed of all noise, the same on every backend.
            batch_size: int. Images made at once.
            return_trajectory: bool. True also returns intermediate states.
            decoder: function from a batch of latents to images, or None.
            verbose: 1 for a progress bar.

        Returns:
            Float32 array `(N, H, W, C)` in `value_range`; with
            `return_trajectory` also a list with a dict for each call of the
            denoiser: `level`, `block`, `noisy` and `denoised` `(N, H, W, C)`.
        """
        made = super().generate(
            np.asarray(labels),
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            grid=grid,
            seed=seed,
            batch_size=batch_size,
            return_trajectory=return_trajectory,
            verbose=verbose,
        )
        images, *steps = made if return_trajectory else (made,)
        if decoder is not None:
            images = _decoded(images, decoder, batch_size)
        return (images, *steps) if return_trajectory else images

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        **kwargs: Any,
    ) -> np.ndarray:
        """`generate` for labels `x` with the model's own `sampler`."""
        return self.generate(
            x,
            sampler=self.sampler,
            batch_size=batch_size or 128,
            verbose=verbose not in (0, "auto"),
        )

    @classmethod
    def generate_from_blocks(
        cls,
        paths: Sequence[os.PathLike | str],
        labels: Any,
        num_steps: int = 50,
        guidance_scale: float | None = None,
        sampler: Sampler | str = "euler",
        grid: str | None = None,
        seed: int = 0,
        batch_size: int = 128,
        decoder: Callable[[Any], Any] | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """`generate` from saved blocks, with one block in memory at a time.

        Args:
            paths: one file per block, in the order of the blocks.

        The other arguments are those of `generate`, and the images equal its
        images bit for bit. The states of all images are kept between blocks.
        """
        chain = SavedChain(cls, paths)
        sampler = chain.network.sampler_of(
            sampler, num_steps, guidance_scale, grid, seed
        )
        images = _streamed(chain, labels, sampler, batch_size, verbose)
        if decoder is not None:
            images = _decoded(images, decoder, batch_size)
        return images

    @classmethod
    def predict_from_blocks(
        cls,
        paths: Sequence[os.PathLike | str],
        x: Any,
        batch_size: int = 128,
        verbose: int = 0,
    ) -> np.ndarray:
        """`generate_from_blocks` for labels `x` with the model's `sampler`."""
        chain = SavedChain(cls, paths)
        sampler = chain.network.sampler
        return _streamed(chain, x, sampler, batch_size, verbose)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        *args: Any,
        feature_extractor: keras.Model | None = None,
        **kwargs: Any,
    ) -> Any:
        """`keras.Model.evaluate` of the denoising losses on fixed noise.

        Args:
            x, y: images and labels, or a dataset.
            feature_extractor: `keras.Model` from images in `value_range` to
                features `(N, F)`, or None. With it, an image is generated for
                each image of `x`, the Frechet distance between both sets'
                features is added, and the result is a dict.
            generate_kwargs: dict, keywords of `generate`.
        """
        options = kwargs.pop("generate_kwargs", {})
        if feature_extractor is None:
            return super().evaluate(x, y, *args, **kwargs)
        kwargs["return_dict"] = True
        results = super().evaluate(x, y, *args, **kwargs)
        images = self.generate(np.asarray(y), **options)
        features = [
            feature_extractor.predict(batch, batch_size=256, verbose=0)
            for batch in (np.asarray(x, "float32"), images)
        ]
        results["frechet_distance"] = frechet_distance(*features)
        return results

    def _check_generate(self, labels, num_samples, sampler, batch_size):
        scale = sampler.guidance_scale
        if scale is not None and not self.class_dropout > 0:
            raise ValueError(
                "Guidance needs a null class, learned with `class_dropout`. "
                f"Received: guidance_scale={scale} with class_dropout=0. "
                "Leave guidance out, or train with `class_dropout=0.1`."
            )
        return super()._check_generate(labels, num_samples, sampler, batch_size)


def _streamed(chain, labels, sampler, batch_size, verbose):
    network, labels = chain.network, np.asarray(labels)
    network._check_generate(labels, None, sampler, batch_size)
    images = chain.run(
        sampler,
        network._as_condition(labels),
        len(labels),
        network._starts(sampler),
        batch_size,
        verbose,
    )
    return network.target.restore(images)


def _decoded(latents, decoder, batch_size):
    parts = range(0, len(latents), batch_size)
    parts = [decoder(latents[i : i + batch_size]) for i in parts]
    return np.concatenate([np.asarray(part) for part in parts])
