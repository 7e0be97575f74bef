"""Variety and perplexity of tokens: golden figures, hand counts, entropies."""

import math

import keras
import numpy as np
import pytest
import scipy.special

from keras_dblocks.applications.metrics import (
    distinct,
    generative_perplexity,
    repetition_rate,
    text_quality,
)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


# Variety and repetition.


@pytest.mark.once
def test_distinct_of_hand_made_texts():
    assert distinct([[1, 2, 1, 2]]) == 2 / 3  # 12 21 12
    assert distinct([[1, 2, 1, 2]], n=1) == 1 / 2
    assert distinct([[1, 2, 1, 2]], n=3) == distinct([[1, 2, 1, 2]], n=4) == 1
    # 23 would be there twice, did a pair reach into the next sequence.
    assert distinct([[1, 2], [3, 2], [3, 1]]) == 1
    assert distinct([[1, 2], [2, 1], [1, 2], [1, 2]]) == 1 / 2
    assert distinct(np.zeros((10, 11), "int32")) == 1 / 100


@pytest.mark.once
def test_repetition_of_hand_made_texts():
    assert repetition_rate([[1, 2, 1, 2, 1, 2]], n=2) == pytest.approx(3 / 5)
    assert repetition_rate([[1, 2, 1, 2, 1, 2]], n=1) == pytest.approx(4 / 6)
    # 1212 2121 1212: one of three.
    assert repetition_rate([[1, 2, 1, 2, 1, 2]]) == pytest.approx(1 / 3)
    assert repetition_rate([[1, 2, 3, 4, 5, 6]], n=1) == 0
    loop = np.zeros((3, 104), "int64")
    assert repetition_rate(loop) == pytest.approx(1 - 1 / 101)


@pytest.mark.once
def test_sequences_all_alike_show_only_in_distinct():
    text = np.arange(50)[None]
    assert distinct(text) == 1 and repetition_rate(text) == 0
    copies = np.repeat(text, 20, 0)
    assert distinct(copies) == 1 / 20 and repetition_rate(copies) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_variety_is_a_plain_count(n, generator):
    tokens = generator.integers(0, 4, (7, 20))
    grams = [
        [tuple(row[i : i + n]) for i in range(20 - n + 1)] for row in tokens
    ]
    every = sum(grams, [])
    assert distinct(tokens, n) == len(set(every)) / len(every)
    seen = [gram in row[:i] for row in grams for i, gram in enumerate(row)]
    assert repetition_rate(tokens, n) == pytest.approx(np.mean(seen))
    # Neither the names of the tokens nor the order of sequences matter.
    other = generator.permutation(9)[tokens][generator.permutation(7)]
    assert distinct(other, n) == distinct(tokens, n)
    rate = repetition_rate(tokens, n)
    assert repetition_rate(other, n) == pytest.approx(rate)
    # Nor what the tokens are kept in.
    tensor = keras.ops.convert_to_tensor(tokens, "int32")
    assert distinct(tensor, n) == distinct(tokens, n)


# Generative perplexity.


@pytest.mark.once
def test_perplexity_agrees_with_golden_figures(golden):
    figures = golden("metrics")
    losses, keep = figures["text/nll_nats"], figures["text/keep"]
    assert 0 < keep.sum() < keep.size
    tokens = np.zeros(losses.shape, "int64")
    wanted = figures["text/perplexity_corpus"]
    ours = generative_perplexity(tokens, lambda t: -losses, keep)
    assert ours == pytest.approx(wanted, rel=1e-12)
    # What is not kept does not count, NaN included.
    scores = np.where(keep, -losses, np.nan)
    ours = generative_perplexity(tokens, lambda t: scores, keep)
    assert ours == pytest.approx(wanted, rel=1e-12)
    # Each sequence by itself makes the other usual figure.
    rows = [
        generative_perplexity(t[None], lambda _, s=s: s[None], k[None])
        for t, s, k in zip(tokens, -losses, keep, strict=True)
    ]
    wanted = figures["text/perplexity_mean_of_sequences"]
    assert np.mean(rows) == pytest.approx(wanted, rel=1e-12)


def uniform(tokens):
    return np.full(tokens.shape, -math.log(50.0))


def bigram(table):
    """A model that knows the token before; the first is any one."""

    def score(tokens):
        first = np.full((len(tokens), 1), -math.log(len(table)))
        rest = np.log(table)[tokens[:, :-1], tokens[:, 1:]]
        return np.concatenate([first, rest], 1)

    return score


def test_perplexity_of_known_models(generator):
    tokens = generator.integers(0, 50, (6, 9))
    assert generative_perplexity(tokens, uniform) == pytest.approx(50.0)
    assert generative_perplexity(tokens, lambda t: 0.0 * t) == 1.0
    ours = generative_perplexity([[1, 2]], lambda t: [[-0.5, -1.5]])
    assert ours == pytest.approx(math.e)
    never = [[-1.0, -np.inf]]
    assert generative_perplexity([[1, 2]], lambda t: never) == np.inf
    # A tensor of any backend, in half precision, is as good as an array.
    half = keras.ops.cast([[-0.5, -1.5]], "bfloat16")
    ours = generative_perplexity([[1, 2]], lambda t: half)
    assert ours == pytest.approx(math.e)


@pytest.mark.once
def test_perplexity_of_a_source_is_its_entropy(generator):
    table = generator.dirichlet(np.full(8, 0.5), 8)
    tokens = generator.integers(0, 8, (200, 101))
    for i in range(100):
        sums = table[tokens[:, i]].cumsum(1)
        draws = generator.uniform(size=(200, 1))
        tokens[:, i + 1] = (sums < draws).sum(1).clip(max=7)
    keep = np.ones(tokens.shape, "bool")
    keep[:, :50] = False  # until it has forgotten the start
    stationary = np.linalg.matrix_power(table, 99)[0]
    entropy = stationary @ scipy.special.entr(table).sum(1)
    ours = generative_perplexity(tokens, bigram(table), keep)
    # 10,200 draws with a spread of about 1 nat.
    assert math.log(ours) == pytest.approx(entropy, abs=0.05)


@pytest.mark.once
def test_no_figure_alone_tells_good_text(generator):
    table = np.full((50, 50), 0.5 / 49)
    np.fill_diagonal(table, 0.5)
    real = np.cumsum(generator.integers(0, 9, (20, 60)) // 4, 1) % 50
    looped = np.full((20, 60), 7)
    random = generator.integers(0, 50, (20, 60))
    real, looped, random = (
        text_quality(tokens, bigram(table)) for tokens in (real, looped, random)
    )
    assert list(real) == [
        "generative_perplexity",
        "distinct_2",
        "repetition_rate",
    ]
    name = "generative_perplexity"
    assert looped[name] < real[name] < random[name]
    for name, sign in (("distinct_2", 1), ("repetition_rate", -1)):
        values = [sign * text[name] for text in (looped, real, random)]
        assert (np.diff(values) > 0.01).all(), name


@pytest.mark.once
def test_quality_is_the_three_figures_without_the_prompts(generator):
    table = generator.dirichlet(np.ones(5), 5)
    score = bigram(table)
    prompts = np.zeros((8, 30), "int64")
    written = generator.integers(0, 5, (8, 12))
    tokens = np.concatenate([prompts, written], 1)
    ours = text_quality(tokens, score, prompt_length=30)
    assert ours["distinct_2"] == distinct(written, 2)
    assert ours["repetition_rate"] == repetition_rate(written, 4)
    # The model sees the prompt: the first written token follows its last.
    wanted = math.exp(-score(tokens)[:, 30:].mean())
    assert ours["generative_perplexity"] == pytest.approx(wanted, rel=1e-12)
    alone = generative_perplexity(written, score)
    assert abs(ours["generative_perplexity"] - alone) > 1e-3
    whole = text_quality(tokens, score)
    assert whole["repetition_rate"] > ours["repetition_rate"] + 0.1


# Refusals.


@pytest.mark.once
def test_unfit_tokens_are_refused():
    wrong = [1, 2, 3], [[1.0, 2.0]], [[True]], np.zeros((0, 4), "int64")
    for tokens in wrong:
        for call in (
            lambda t: distinct(t, 1),
            lambda t: repetition_rate(t, 1),
            lambda t: generative_perplexity(t, uniform),
            lambda t: text_quality(t, uniform),
        ):
            with pytest.raises(ValueError, match="Received: shape .* Token"):
                call(tokens)
    for metric in (distinct, repetition_rate):
        for n in (0, 5):
            with pytest.raises(ValueError, match="the 4 .* Received: n="):
                metric([[1, 2, 3, 4]], n)
    with pytest.raises(ValueError, match="the 3 tokens .* Received: n=4"):
        text_quality([[1, 2, 3, 4]], uniform, prompt_length=1)
    with pytest.raises(ValueError, match=r"Received: shape \(1, 0\)"):
        text_quality([[1, 2, 3, 4]], uniform, prompt_length=4)


@pytest.mark.once
def test_unfit_scores_are_refused():
    tokens = np.ones((2, 3), "int64")

    def refused(scores, match, keep=None):
        with pytest.raises(ValueError, match=match):
            generative_perplexity(tokens, lambda t: np.array(scores), keep)

    good = np.full((2, 3), -1.0)
    for scores in (good[:, 1:], good[0], good[..., None], -1.0):
        refused(scores, "Received: shapes .* Give one")
    for keep in (np.ones((2, 2), "bool"), np.ones((2, 3), "int64")):
        refused(good, "Received: shapes .* Give one", keep)
    refused(-good, "6 tokens, 6 of them .* not losses")
    refused(np.where(np.eye(2, 3), np.nan, good), "6 tokens, 2 of them")
    refused(good, "Received: 0 tokens", np.zeros((2, 3), "bool"))
