"""Evaluates texts that saved next-token models generate from prompts.

Generative perplexity under a scoring model, distinct-2 and the repetition rate
are printed together, because each alone can be misleading: repetition lowers
the perplexity, and noise increases the diversity. They are printed for several
temperatures, so that models can be compared at equal diversity. MAUVE compares
the mean states of the scoring model. The first line evaluates the real text:

    KERAS_BACKEND=jax python tools/score_text.py --data austen.txt \
        --scorer end_to_end-1.keras --models blocks-0.keras end_to_end-0.keras
"""

import argparse
import functools
from pathlib import Path

import keras
import numpy as np
from keras import ops
from steps import print_line

from keras_dblocks.applications.data import chunks, load_text
from keras_dblocks.applications.metrics import mauve, text_quality


class Scores(keras.Model):
    """Computes log-probabilities `(B, T)` and mean states `(B, D)` of tokens.

    Args:
        model: `CausalLM`.
    """

    def __init__(self, model):
        super().__init__(name="scores")
        self.model = model
        self.built = True

    def call(self, tokens):
        model = self.model
        begin = model.vocabulary_size * ops.ones_like(tokens[:, :1])
        state = model.embed(ops.concatenate([begin, tokens[:, :-1]], 1))
        for layer in model.residual_layers:
            state = layer(state)
        share = ops.log_softmax(model.logits(state), axis=-1)
        score = ops.take_along_axis(share, ops.expand_dims(tokens, -1), -1)
        return ops.squeeze(score, -1), ops.mean(model.norm(state[:, 0]), 1)


def main():
    """Prints one line of JSON for each model and temperature."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", default="python")
    add("--tokenizer", default="text8")
    add("--scorer", type=Path, required=True)
    add("--models", type=Path, nargs="+", required=True)
    add("--prompts", type=int, default=400)
    add("--prompt-length", type=int, default=32)
    add("--temperatures", type=float, nargs="+", default=[0.7, 0.85, 1.0])
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    scorer = keras.saving.load_model(args.scorer, compile=False)
    data = load_text(args.data, args.tokenizer)
    text = chunks(data.test, scorer.sequence_length)
    # Every other sequence gives a prompt. MAUVE compares with the others.
    real, prompted = text[::2][: args.prompts], text[1::2][: args.prompts]
    scores = functools.partial(Scores(scorer).predict, batch_size=50, verbose=0)
    features = scores(real)[1]

    def report(tokens, **row):
        quality = text_quality(
            tokens, lambda t: scores(t)[0], prompt_length=args.prompt_length
        )
        quality["mauve"] = mauve(features, scores(tokens)[1])[0]
        quality = {name: round(float(v), 4) for name, v in quality.items()}
        print_line({**row, **quality})

    report(prompted, model="the text itself")
    for path in args.models:
        model = keras.saving.load_model(path, compile=False)
        for temperature in args.temperatures:
            tokens = model.generate(
                np.array(prompted[:, : args.prompt_length]),
                temperature=temperature,
                top_p=args.top_p,
                seed=args.seed,
                batch_size=args.prompts,
            )
            report(tokens, model=path.stem, temperature=temperature)


if __name__ == "__main__":
    main()
