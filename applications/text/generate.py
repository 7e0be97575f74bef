"""Generates text with a model that predicts the next token."""

from typing import Any

import numpy as np

from keras_dblocks import streams
from keras_dblocks.applications.text.decode import Decoder
from keras_dblocks.applications.text.strings import is_text
from keras_dblocks.checks import check_integer
from keras_dblocks.diffusion.samplers.tokens import check_drawing


class GeneratesText:
    """`generate` of a model that has a `make_writer`."""

    def generate(
        self,
        prompts: Any = None,
        max_length: int | None = None,
        num_steps: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        num_samples: int = 1,
        end_token: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        **options: Any,
    ) -> Any:
        """Continues prompts, and returns them with their continuations.

        Tokens are drawn from the last step's logits. If the chain starts from
        zero, as by default, these are an ordinary predictive distribution.

        Args:
            prompts: list of strings, list of int arrays `(t,)` of any
                lengths, int array `(N, t)`, or None for one empty prompt.
            max_length: int. Number of tokens with the prompt. Defaults to
                `sequence_length`, which is also the largest.
            num_steps: int or None. Steps of the chain, or iterations of a
                recurrent core; None for the model's default. `CausalLM`
                ignores it.
            temperature: float. 0 takes the likeliest token.
            top_p: float in (0, 1]. Tokens are drawn from the likeliest ones
                that hold this share of the probability.
            num_samples: int. Continuations of each prompt.
            end_token: int or None. A row that drew it ends, and is filled
                with it. Defaults to the tokenizer's `end_token_id`, if any.
            seed: int. The result depends on it and on the row alone.
            batch_size: int. Rows that are generated at once.
            options: keywords of the model's `make_writer`.

        Returns:
            List of strings for prompts of strings, otherwise an int32 array
            `(N * num_samples, max_length)`. The samples of a prompt are
            adjacent.
        """
        if max_length is None:
            max_length = self.sequence_length
        for name, value in (
            ("max_length", max_length),
            ("num_samples", num_samples),
            ("batch_size", batch_size),
        ):
            check_integer(name, value)
        check_integer("seed", seed, 0)
        check_drawing(temperature, top_p)
        text = prompts is None and self.tokenizer is not None
        text = text or is_text(prompts)
        rows = self._prompts(prompts, max_length)
        if end_token is None:
            end_token = getattr(self.tokenizer, "end_token_id", None)
        if end_token is not None:
            check_integer("end_token", end_token, 0)
            if end_token >= self.vocabulary_size:
                raise ValueError(
                    "`end_token` must be a token of the vocabulary, 0 to "
                    f"{self.vocabulary_size - 1}. Received: "
                    f"end_token={end_token}. Leave it out for none."
                )
        if not self.built:
            self.build()
        settings = [temperature, top_p, -1 if end_token is None else end_token]
        settings = np.array(settings, "float32")
        rows = [row for row in rows for _ in range(num_samples)]
        tokens = np.zeros((len(rows), max_length), "int32")
        lengths = np.array([len(row) for row in rows], "int32")
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        size = min(batch_size, len(rows))
        decoder = self._decoder(
            (temperature == 0, top_p < 1),
            (size, max_length),
            num_steps=num_steps,
            **options,
        )
        generator = streams.generator(seed, "text")
        uniform = generator.random(tokens.shape, dtype="float32")
        generator = streams.generator(seed, "text_start")
        starts = decoder.writer.starts(tokens.shape, generator)
        result = []
        for first in range(0, len(rows), size):
            # All batches have one shape, so that it is compiled once.
            part = np.arange(first, first + size) % len(rows)
            inputs = [a[part] for a in (tokens, lengths, uniform, starts)]
            inputs = (*inputs, settings)
            made = decoder.predict_on_batch(inputs)
            result.append(np.asarray(made)[: len(rows) - first])
        result = np.concatenate(result)
        if not text:
            return result
        texts = []
        for row, given in zip(result, lengths, strict=True):
            # A row ends at its first end token after the prompt.
            ends = given + np.flatnonzero(row[given:] == end_token)
            row = row[: ends[0]] if len(ends) else row
            texts.append(self.tokenizer.detokenize(row))
        return texts

    def _decoder(self, drawing, shape, **options):
        if "_decoders" not in self.__dict__:
            object.__setattr__(self, "_decoders", {})
        # Each shape has its own decoder, since TensorFlow would compile the
        # second shape for any. A new sampler makes other calls.
        sampler = getattr(self, "sampler", None)
        key = (sampler, drawing, shape, *sorted(options.items()))
        if key not in self._decoders:
            writer = self.make_writer(**options)
            self._decoders[key] = Decoder(writer, *drawing)
        return self._decoders[key]

    def _prompts(self, prompts, max_length):
        """List of int arrays."""
        prompts = [] if prompts is None else prompts
        if is_text(prompts):
            prompts = [prompts] if isinstance(prompts, str) else prompts
            prompts = [self.tokens_of(text) for text in prompts]
        prompts = [np.asarray(prompt) for prompt in prompts]
        wanted = (
            "Prompts must be strings or integer arrays (t,) of tokens 0 to "
            f"{self.vocabulary_size - 1}, t at most {max_length}, "
            f"`max_length`, itself at most {self.sequence_length}. "
        )
        if max_length > self.sequence_length:
            raise ValueError(
                f"{wanted}Received: max_length={max_length}. "
                "Lower it, or make a model with a longer `sequence_length`."
            )
        for prompt in prompts:
            whole = np.issubdtype(prompt.dtype, np.integer) or not prompt.size
            fits = prompt.ndim == 1 and len(prompt) <= max_length
            if not whole or not fits:
                raise ValueError(
                    f"{wanted}Received: {prompt.dtype} of shape "
                    f"{prompt.shape}. Cut it, or pass one row per prompt."
                )
            low, high = (prompt.min(), prompt.max()) if prompt.size else (0, 0)
            if not 0 <= low <= high < self.vocabulary_size:
                raise ValueError(
                    f"{wanted}Received: tokens {low} to {high}. "
                    "Use the tokenizer the model was made for."
                )
        return prompts or [np.zeros((0,), "int32")]
