"""Quality and variety of generated tokens, without a reference text."""

# N sequences, T tokens each

import numpy as np
from keras import ops


def distinct(tokens, n=2):
    """Share of different n-grams among all n-grams of all sequences.

    It falls with the amount of text: compare figures over equally much.

    Args:
        tokens: int array `(N, T)`. No n-gram reaches into the next sequence.
        n: int from 1 to T.

    Returns:
        float in (0, 1]. 1 if no n-gram comes twice.

    Raises:
        ValueError: for other shapes or types of `tokens`; for `n` out of range.

    Example: `distinct([[1, 2, 1, 2]])` is 2/3.

    References:
     - [distinct-1 and -2](https://arxiv.org/abs/1510.03055), there over the
       number of tokens, which differs little in long sequences
    """
    grams = _ngrams(tokens, n).reshape(-1, n)
    return len(np.unique(grams, axis=0)) / len(grams)


def repetition_rate(tokens, n=4):
    """Share of n-grams that stand earlier in the same sequence too.

    The mean over sequences of 1 - different n-grams / n-grams (seq-rep-n).
    Unlike `distinct`, it does not depend on the number of sequences, nor see
    that they are all alike.

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
    """Perplexity of generated tokens under a model that didn't write them.

    `exp` of the mean of `-score` over all kept tokens, not over sequences.
    "the the the" can win: read it beside `distinct` and `repetition_rate`,
    as `text_quality` prints them.

    Args:
        tokens: int array `(N, T)`.
        score: function of all `tokens`, called once, that returns the log
            probability `(N, T)` of each token, in nats, given those before.
        keep: bool array `(N, T)` or None. Tokens to count, so False for
            prompts and padding. None counts all.

    Returns:
        float, 1 or above; infinity if a kept token was impossible.

    Raises:
        ValueError: for other shapes; for NaN or positive log probabilities,
            or none, where `keep` is True.

    Example: `generative_perplexity([[1, 2]], lambda t: [[-0.5, -1.5]])` is e.

    References:
     - [DiffusionBlocks](https://arxiv.org/abs/2506.14202): the PPL of its
       tables, by Llama-2-7B and GPT2-XL
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
    # A log softmax in half precision may round to a little above 0.
    if not len(scores) or not (scores <= 1e-2).all():
        raise ValueError(
            "Kept tokens must have log probabilities, 0 or below. Received: "
            f"{len(scores)} tokens, {(~(scores <= 1e-2)).sum()} of them with "
            "NaN or above 0. Return log probabilities, not losses, and leave "
            "out tokens that have none by `keep`."
        )
    return float(np.exp(-scores.mean()))


def text_quality(tokens, score, prompt_length=0):
    """What generated text must be judged by together.

    Each figure alone can be gamed: the perplexity by repeating a phrase, the
    other two by random tokens. Print them beside those of real text.

    Args:
        tokens: int array `(N, T)`, prompts included.
        score: function, as `generative_perplexity`; sees the prompts too.
        prompt_length: int from 0. The first tokens, which don't count.

    Returns:
        dict of `generative_perplexity`, `distinct_2` and `repetition_rate`.

    Raises:
        ValueError: as the three, so for fewer than 4 tokens after the prompts.

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
    """All n-grams `(N, T - n + 1, n)`."""
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
