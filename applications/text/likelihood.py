"""The likelihood of text under a model of the next token."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat
from keras_dblocks.diffusion.tokens import mean_over_tokens
from keras_dblocks.models.numbered_rows import NumberedRows


class Entropies(NumberedRows, keras.Model):
    """Cross-entropy of each sequence, `(B, T)` to `(B, steps)`, in nats.

    It is the mean over the sequence's tokens that are no padding.

    Args:
        model: a `NextTokenBlocks`, with an entry for every call of a denoiser,
            or an `EndToEndText`, with one entry.
    """

    def __init__(self, model):
        super().__init__(name="entropies")
        self.model = model
        self.sampler = getattr(model, "sampler", None)
        self.make_row_counter()
        self.built = True

    def call(self, tokens):
        model = self.model
        if hasattr(model, "blocks"):
            # If the chain starts from zero, nothing is drawn, and the
            # predictions are functions of the tokens before alone. Each is
            # then a likelihood (docs/method.md#start-of-the-chain).
            rows = self.row_numbers(model.batch_size_of(tokens), "predict")
            steps = model.steps_of(tokens, self.sampler, rows)
            logits = [step["prediction"] for step in steps]
        else:
            logits = [model(tokens)]
        labels = ops.cast(tokens, "int32")
        entropies = [
            mean_over_tokens(
                keras.losses.sparse_categorical_crossentropy(
                    labels, step, from_logits=True
                ),
                labels,
                model.padding_token,
            )
            for step in logits
        ]
        return ops.stack(entropies, 1)


def token_counts(tokens, padding_token):
    """Number of tokens that are no padding in each row of numpy `(N, T)`."""
    if padding_token is None:
        return np.full(len(tokens), tokens.shape[1])
    return (tokens != padding_token).sum(-1)


def mean_and_error(values, counts):
    """Mean per token of the sequences' means `(N,)`, and its standard error.

    Args:
        values: numpy `(N,)`, mean of each sequence over its tokens.
        counts: numpy `(N,)`, number of tokens of each sequence.

    Returns:
        Pair of floats. The error is that of a ratio of sums over sequences,
        and NaN for one sequence.
    """
    share = counts / counts.mean()
    mean = np.mean(share * values)
    if len(values) < 2:
        return float(mean), np.nan
    error = (share * (values - mean)).std(ddof=1) / len(values) ** 0.5
    return float(mean), float(error)


class EvaluatesLikelihood:
    """`evaluate` of a model of the next token."""

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int = 32,
        verbose: int | str = "auto",
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Cross-entropy of the next token, in nats per token.

        If the chain starts from zero, as by default, it is minus the
        logarithm of a likelihood. If it starts from noise, as with
        `reference=True`, the likelihood would be a mean over all noise, of
        which one draw gives an upper bound only; a warning says so.
        Padding does not count.

        Args:
            x: int array `(N, sequence_length)`, or text as in `fit`.
            batch_size: int.
            verbose: ignored; it stands for that of `keras.Model.evaluate`.
            return_dict: bool. False returns a list in the dict's order.

        Returns:
            Dict of `cross_entropy`, that of the whole chain, its
            `standard_error` over sequences (NaN for one sequence), and
            `num_tokens`, the number of tokens that count. For models
            in blocks also `block_0_cross_entropy`, ..., after each block's
            last call, and if the model is compiled `block_0_loss`, ..., the
            denoising losses on fixed noise.
        """
        if compat.inside_fit(kwargs):
            # Validation inside `fit` takes the training loss on fixed noise.
            return super().evaluate(
                x, y, batch_size, verbose, return_dict=return_dict, **kwargs
            )
        if kwargs:
            raise ValueError(
                "The likelihood takes tokens and `batch_size`. "
                f"Received: {', '.join(kwargs)}. Leave it out."
            )
        tokens = self.tokens_to_score(x, y, "likelihood")
        if not self.built:
            self.build()
        entropies = self.__dict__.get("_entropies")
        sampler = getattr(self, "sampler", None)
        if entropies is None or entropies.sampler is not sampler:
            # It holds the model, so it must not become a sublayer of it.
            object.__setattr__(self, "_entropies", Entropies(self))
        steps = self._entropies.predict(
            tokens, batch_size=batch_size, verbose=0
        )
        if getattr(sampler, "starts_from_noise", False):
            warnings.warn(
                "The chain starts from noise, so that `cross_entropy` is not "
                "that of a likelihood but a bound, for one draw of the noise. "
                "`model.sampler = EulerSampler()` starts from zero.",
                stacklevel=2,
            )
        counts = token_counts(tokens, self.padding_token)
        mean, error = mean_and_error(steps[:, -1], counts)
        result = {"cross_entropy": mean, "standard_error": error}
        result["num_tokens"] = counts.sum()
        means = [mean_and_error(step, counts)[0] for step in steps.T]
        result |= self._by_block(means)
        if self.compiled and hasattr(self, "blocks"):
            losses = super().evaluate(
                tokens, batch_size=batch_size, verbose=0, return_dict=True
            )
            result |= {k: v for k, v in losses.items() if k != "loss"}
        result = {name: float(value) for name, value in result.items()}
        return result if return_dict else list(result.values())

    def _by_block(self, steps):
        if not hasattr(self, "blocks"):
            return {}
        return {
            f"block_{block}_cross_entropy": steps[call]
            for block, call in self.last_calls().items()
        }
