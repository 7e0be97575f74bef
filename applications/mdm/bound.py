"""The variational bound on the likelihood of text, as parts of blocks."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat, streams
from keras_dblocks.applications.text.likelihood import (
    mean_and_error,
    token_counts,
)
from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.diffusion.tokens import cross_entropies
from keras_dblocks.layers.moving_average import averaged


class BoundStage(keras.Model):
    """Cross-entropy of the masked tokens of each sequence, for one block.

    Args:
        blocks: list of `Block`, see `loop.running`. The last one predicts.
    """

    def __init__(self, blocks):
        super().__init__(name="bound")
        self.blocks = blocks
        self.built = True

    def call(self, inputs):
        noisy, clean, level = inputs
        masked = ops.cast(noisy != clean, "float32")
        with averaged(self.blocks):
            logits = loop.denoise(self.blocks, noisy, level)
        losses = masked * cross_entropies(clean, logits)  # (B, T)
        return self.blocks[-1].target.over_positions(losses, clean)  # (B,)


class EvaluatesBound:
    """`evaluate` of a masked `DiffusionBlocks`, in bits per token."""

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int = 32,
        verbose: int | str = "auto",
        return_dict: bool = False,
        num_draws: int = 8,
        seed: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Bits per token, an upper bound on the negative log-likelihood.

        Each mask ratio is routed to its own block. Ratios are spread evenly
        over the sequences and draws (stratified). Masks are drawn on the host
        and are the same on every backend. Moving averages of the weights are
        used if there are any.

        Args:
            x: int array `(N, sequence_length)`, or text as in `fit`.
            batch_size: int.
            verbose: ignored; it stands for that of `keras.Model.evaluate`.
            return_dict: bool. False returns a list in the dict's order.
            num_draws: int. Masks drawn for each sequence and block.
            seed: int.

        Returns:
            Dict of `bits_per_token`; its `standard_error` over sequences (NaN
            for one sequence); `num_tokens`, the number of tokens that are no
            padding, which alone count; `reconstruction_bits_per_token`, the
            part of the bound below the smallest ratio; and
            `block_0_bits_per_token`, ..., which with that part add up to the
            whole.
        """
        if compat.inside_fit(kwargs):
            # Validation inside `fit` takes the training loss on fixed noise.
            return super().evaluate(
                x, y, batch_size, verbose, return_dict=return_dict, **kwargs
            )
        if kwargs:
            raise ValueError(
                "The bound takes tokens, `batch_size`, `num_draws` and `seed`. "
                f"Received: {', '.join(kwargs)}. Leave it out."
            )
        check_integer("num_draws", num_draws)
        tokens = self.tokens_to_score(x, y, "bound")
        parts = self._bound(tokens, batch_size, num_draws, seed)
        rest = self.noise.minimum * np.log2(self.vocabulary_size)
        counts = token_counts(tokens, self.padding_token)
        mean, error = mean_and_error(sum(parts.values()), counts)
        result = {
            "bits_per_token": float(mean + rest),
            "standard_error": error,
            "num_tokens": float(counts.sum()),
            "reconstruction_bits_per_token": float(rest),
            **{
                f"block_{i}_bits_per_token": mean_and_error(part, counts)[0]
                for i, part in parts.items()
            },
        }
        return result if return_dict else list(result.values())

    def _bound(self, tokens, batch_size, num_draws, seed):
        """Dict from a block to the bits per token of each sequence `(N,)`."""
        if not self.built:
            self.build()
        rng = streams.generator(seed, "bound")
        count = len(tokens)
        repeated = np.tile(tokens, (num_draws, 1))
        parts = {}
        for block in self.blocks:
            low, high = self.partition.noise_range(block.index, overlap=False)
            # The range is cut into equal pieces, and a ratio drawn in each.
            spread = rng.permutation(len(repeated)) + rng.random(len(repeated))
            level = low + (high - low) * spread / len(repeated)
            masked = rng.random(repeated.shape) < level[:, None]
            masked &= repeated != self.padding_token
            noisy = np.where(masked, self.vocabulary_size, repeated)
            nats = self._bound_stage(block.index).predict(
                (noisy.astype("int32"), repeated, level.astype("float32")),
                batch_size=batch_size,
                verbose=0,
            )
            bits = nats / level * (high - low) / np.log(2.0)
            parts[block.index] = bits.reshape(num_draws, count).mean(0)
        return parts
