"""The likelihood of text under a model of the next token."""

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.models.numbered_rows import NumberedRows


class Entropies(NumberedRows, keras.Model):
    """Cross-entropy of each sequence, `(B, T)` to `(B, steps)`, in nats.

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
            keras.losses.sparse_categorical_crossentropy(
                labels, step, from_logits=True
            )
            for step in logits
        ]
        return ops.mean(ops.stack(entropies, 1), -1)


def standard_error(values):
    """Standard error of the mean of `values` `(N,)`; NaN for one value."""
    if len(values) < 2:
        return np.nan
    return values.std(ddof=1) / len(values) ** 0.5


class EvaluatesLikelihood:
    """`evaluate` of a model of the next token."""

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=32,
        verbose="auto",
        return_dict=False,
        **kwargs,
    ):
        """Cross-entropy of the next token, in nats per token.

        Args:
            x: int array `(N, sequence_length)`, or text as in `fit`.
            batch_size: int.
            verbose: ignored; it stands for that of `keras.Model.evaluate`.
            return_dict: bool. False returns a list in the dict's order.

        Returns:
            Dict of `cross_entropy`, that of the whole chain, and its
            `standard_error` over sequences (NaN for one sequence). For models
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
        whole = steps[:, -1]
        result = {"cross_entropy": whole.mean()}
        result["standard_error"] = standard_error(whole)
        result |= self._by_block(steps.mean(0))
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
        visits = loop.plan(self.sampler, self.partition)
        ends = np.cumsum([visit.num_calls for visit in visits]) - 1
        return {
            f"block_{visit.block}_cross_entropy": steps[end]
            for visit, end in zip(visits, ends, strict=True)
        }
