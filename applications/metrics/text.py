"""Quality and variety of generated text, without a reference text."""

# N sequences, T tokens each

import numpy as np
from keras import ops


def distinct(tokens, n=2):
    """Number of different n-grams, relative to the number of all n-grams.

    It decreases with the amount of text, so that only values for equally much
    text can be compared.

    Args:
        tokens: int array `(N, T)`. n-grams do not span two sequences.
        n: int from 1 to T.

    Returns:
        float in (0, 1]. 1 if no n-gram occurs twice.

    Raises:
        ValueError: for other shapes or types of `tokens`, and for `n` out of
            range.

    Example: `distinct([[1, 2, 1, 2]])` is 2/3.

    References:
     - [distinct-1 and -2](https://arxiv.org/abs/1510.03055), there relative to
       the number of tokens, which differs little for long sequences
    """
    grams = _ngrams(tokens, n).reshape(-1, n)
    return len(np.unique(grams, axis=0)) / len(grams)


def repetition_rate(tokens, n=4):
    """Share of n-grams that occur earlier in the same sequence (seq-rep-n).

    It is the mean over sequences of 1 - different n-grams / n-grams. Unlike
    `distinct`, it does not depend on the number of sequences, and does not
    detect sequences that are equal to each other.

    Args:
        tokens: int array `(N, T)`.
        n: int from 1 to T.

    Returns:
        float in [0, 1). 0 if no sequence repeats itself.

    Raises:
        ValueError: as `distinct`.

    Example: `repetition_rate([[1, 2, 1, 2, 1, 2]], n=2)` is 3/5.

    References:
     - [Unlikelihood training](https://arxiv.org/abs/1908.04319), seq-rep-n
       with n = 4
    """
    grams = _ngrams(tokens, n)
    shares = [len(np.unique(g, axis=0)) / len(g) for g in grams]
    return float(1.0 - np.mean(shares))


def generative_perplexity(tokens, score, keep=None):
    """Perplexity of generated tokens under another language model.

    It is `exp` of the mean of `-score` over the kept tokens of all sequences.
    Text like "the the the" can have a low perplexity, so that it means little
    without `distinct` and `repetition_rate`; `text_quality` computes all three.

    Args:
        tokens: int array `(N, T)`.
        score: function that is called once with `tokens` and returns the log
            probability `(N, T)` of each token given the tokens before it, in
            nats.
        keep: bool array `(N, T)` or None. True for the tokens that are
            counted, False for instance for prompts and padding. None counts
            all.

    Returns:
        float, 1 or above. Infinity if a kept token has probability 0.

    Raises:
        ValueError: for other shapes, if no token is kept, and for kept tokens
            whose log probability is NaN or positive.

    Example: `generative_perplexity([[1, 2]], lambda t: [[-0.5, -1.5]])` is e.

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202): "PPL" in its tables,
       under Llama-2-7B and GPT2-XL
    """
    tokens = _check_tokens(tokens)
    scores = ops.convert_to_numpy(score(tokens))
    keep = np.ones(tokens.shape, "bool") if keep is None else np.asarray(keep)
    if not scores.shape == keep.shape == tokens.shape or keep.dtype != "bool":
        raise ValueError(
            f"`score` and `keep` must be of the tokens' shape {tokens.shape}, "
            f"`keep` of bools. Received: shapes {scores.shape} and "
            f"{keep.shape}, {keep.dtype}. Give one log probability for each "
            "token; `keep` leaves out the first if it has none."
        )
    scores = scores[keep].astype("float64")
    # Rounding in half precision can leave a log probability slightly above 0.
    if not len(scores) or not (scores <= 1e-2).all():
        raise ValueError(
            "Kept tokens must have log probabilities, 0 or below. Received: "
            f"{len(scores)} tokens, {(~(scores <= 1e-2)).sum()} of them with "
            "NaN or above 0. Return log probabilities, not losses, and leave "
            "out tokens that have none by `keep`."
        )
    return float(np.exp(-scores.mean()))


def text_quality(tokens, score, prompt_length=0):
    """Three metrics of generated text that should be reported together.

    Each alone can be misleading: repeating a phrase improves the perplexity,
    and random tokens improve the other two. Compare them with those of real
    text.

    Args:
        tokens: int array `(N, T)`, prompts included.
        score: function, as in `generative_perplexity`. Its argument includes
            the prompts.
        prompt_length: int, 0 or above. The number of tokens at the start of
            each sequence that are not counted.

    Returns:
        dict of `generative_perplexity`, `distinct_2` and `repetition_rate`.

    Raises:
        ValueError: as the three metrics, for instance for fewer than 4 tokens
            after the prompts.

    Example: `text_quality(tokens, score)["distinct_2"]`.
    """
    tokens = _check_tokens(tokens)
    keep = np.zeros(tokens.shape, "bool")
    keep[:, prompt_length:] = True
    written = tokens[:, prompt_length:]
    variety = {
        "distinct_2": distinct(written),
        "repetition_rate": repetition_rate(written),
    }
    perplexity = generative_perplexity(tokens, score, keep)
    return {"generative_perplexity": perplexity, **variety}


def _ngrams(tokens, n):
    """Returns all n-grams as an array `(N, T - n + 1, n)`."""
    tokens = _check_tokens(tokens)
    if not 1 <= n <= tokens.shape[1]:
        raise ValueError(
            f"`n` must be from 1 to the {tokens.shape[1]} tokens of a "
            f"sequence. Received: n={n}. Use longer sequences, or a smaller n."
        )
    return np.lib.stride_tricks.sliding_window_view(tokens, n, axis=1)


def _check_tokens(tokens):
    tokens = ops.convert_to_numpy(tokens)
    if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
        raise ValueError(
            "Tokens must be an int array (N, T), not empty. Received: shape "
            f"{tokens.shape} of {tokens.dtype}. Tokenize the text, and cut all "
            "sequences to one length."
        )
    return tokens
