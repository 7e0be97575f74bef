"""Generates text from masks: samples, continuations and infilling."""

from typing import Any, NoReturn

import numpy as np

from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.samplers import (
    UnmaskingSampler,
    generation,
    loop,
)


class GeneratesTokens:
    """`generate` of a masked `DiffusionBlocks` on tokens."""

    def generate(
        self,
        num_samples: int = 8,
        num_steps: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prompt: Any = None,
        order: str = "random",
        grid: str = "cosine",
        seed: int = 0,
        batch_size: int = 32,
        return_trajectory: bool = False,
        verbose: int = 0,
    ) -> Any:
        """Generates sequences of tokens, or strings if there is a tokenizer.

        Args:
            num_samples: int.
            num_steps: int. Calls of the denoiser.
            temperature, top_p, order, grid: see `samplers.UnmaskingSampler`.
            prompt: int array `(T,)` or `(num_samples, T)`, where T is at most
                `sequence_length`, or a string. Tokens other than the mask are
                kept; masks, and slots after the prompt, are filled in.
            seed: int. The result depends on it and on the row alone, not on
                `batch_size`.
            batch_size: int. Sequences made at once.
            return_trajectory: bool. True also returns intermediate states.
            verbose: 1 for a progress bar.

        Returns:
            int32 array `(num_samples, sequence_length)`, or list of strings.
            With `return_trajectory` also a list with a dict for each step:
            `level`, `block`, `noisy` (before) and `denoised` (after).
        """
        check_integer("batch_size", batch_size)
        check_integer("num_samples", num_samples)
        starts = self._starts(prompt, num_samples)
        sampler = UnmaskingSampler(
            num_steps,
            grid,
            self.schedule,
            order,
            temperature,
            top_p,
            seed=seed,
            masked=float((starts == self.vocabulary_size).mean()),
            mask_token=self.vocabulary_size,
        )
        if not self.built:
            self.build()
        visits = loop.plan(sampler, self.partition, self.may_skip)
        trajectory = generation.Trajectory() if return_trajectory else None
        if return_trajectory:
            visits = [one for visit in visits for one in visit.split()]
        parts = generation.batches(num_samples, batch_size)
        batches = generation.generate(
            self._stages,
            visits,
            sampler,
            parts,
            lambda batch: starts[np.minimum(batch.rows, num_samples - 1)],
            generation.progress_bar(parts, visits, verbose),
            trajectory,
        )
        tokens = np.concatenate(list(batches))
        result = tokens
        if self.tokenizer is not None:
            result = [self.tokenizer.detokenize(row) for row in tokens]
        if return_trajectory:
            return result, trajectory.steps(len(visits))
        return result

    def _starts(self, prompt, num_samples):
        """Masks `(num_samples, T)` that begin with the prompt."""
        length, mask = self.sequence_length, self.vocabulary_size
        starts = np.full((num_samples, length), mask, "int32")
        if prompt is None:
            return starts
        if isinstance(prompt, str):
            prompt = self.tokens_of(prompt)
        prompt = np.asarray(prompt)
        whole = np.issubdtype(prompt.dtype, np.integer)
        fits = prompt.ndim == 1 or prompt.shape[:-1] == (num_samples,)
        if not whole or not fits or prompt.shape[-1] > length:
            raise ValueError(
                f"A prompt must be integers (T,) or ({num_samples}, T), T at "
                f"most {length}. Received: {prompt.dtype} of shape "
                f"{prompt.shape}. Cut it, or pass one for each sample."
            )
        if prompt.size and not 0 <= prompt.min() <= prompt.max() <= mask:
            raise ValueError(
                f"A prompt's tokens must lie in 0 to {mask}, the mask. "
                f"Received: {prompt.min()} to {prompt.max()}. "
                "Use the tokenizer the model was made for."
            )
        starts[:, : prompt.shape[-1]] = prompt
        return starts

    def predict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises a ValueError, since text is drawn; see `generate`."""
        raise ValueError(
            "Masked diffusion predicts logits at a mask ratio, and draws "
            f"text. Received: a call of `predict` of {self.name}. "
            "Use `denoise(tokens, ratio)`, or `generate(prompt=tokens)`."
        )
