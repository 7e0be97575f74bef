"""Text token by token: cached is uncached, drawn is predicted, strings."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_ar import (
    MODELS,
    PLAIN,
    log_softmax,
    make,
    random_tokens,
    randomize,
    shared,
)
from helpers.small_vit import refused
from keras_dblocks.applications.data import Text8Tokenizer
from keras_dblocks.samplers import EulerSampler

numpy = ops.convert_to_numpy
PROMPTS = [[1], [2, 0, 1], [], [0, 1, 2, 0, 1, 2]]


@pytest.fixture(params=["blocks", "twin"])
def model(request):
    return shared(request.param)


@pytest.fixture
def blocks():
    return shared("blocks")


@pytest.mark.eager
@pytest.mark.parametrize("name", MODELS)
def test_cached_logits(name):
    """A token at a time, after a prompt, and over what stood there before."""
    model = shared(name)
    tokens = random_tokens(6)
    wanted = model.predict(tokens, verbose=0)
    writer = model.make_writer(num_steps=None)
    for given in (0, 3):
        seen = np.concatenate([tokens[:, :given], 0 * tokens[:, given:]], 1)
        begin = np.full((6, 1), writer.start_token)
        seen = np.concatenate([begin, seen[:, :-1]], 1).astype("int32")
        caches = writer.fill(ops.convert_to_tensor(seen), ops.zeros((6, 6, 1)))
        for i in range(given, 6):
            previous = tokens[:, i - 1] if i else begin[:, 0]
            previous = ops.convert_to_tensor(previous, dtype="int32")
            place = ops.convert_to_tensor(i, dtype="int32")
            logits, caches = writer.write(
                previous, caches, place, ops.zeros((6, 1, 1))
            )
            np.testing.assert_allclose(numpy(logits), wanted[:, i], atol=1e-5)


def check_greedy(model, made, prompts):
    """Every new token is the likeliest of the whole model."""
    likeliest = model.predict(made, verbose=0).argmax(-1)
    for row, best, prompt in zip(made, likeliest, prompts, strict=True):
        given = len(prompt)
        np.testing.assert_array_equal(row[:given], prompt)
        np.testing.assert_array_equal(row[given:], best[given:])


@pytest.mark.eager
@pytest.mark.parametrize("name", ["blocks", "simplex", "twin"])
def test_greedy_text_is_the_likeliest(name):
    model = shared(name)
    made = model.generate(PROMPTS, temperature=0)
    assert made.shape == (4, 6) and made.dtype == "int32"
    check_greedy(model, made, PROMPTS)


@pytest.mark.eager
def test_more_steps_and_a_new_sampler():
    """It reaches what is compiled already."""
    model = randomize(make(**PLAIN), seed=10)
    before = model.generate(PROMPTS, temperature=0)
    for steps in (None, 7):
        model.sampler = EulerSampler(steps, "equal_mass")
        made = model.generate(PROMPTS, num_steps=steps, temperature=0)
        check_greedy(model, made, PROMPTS)
        assert (made != before).any() or steps is None


@pytest.mark.eager
def test_rows_know_nothing_of_their_batch(model):
    """Nor of other prompts' lengths, nor of the filling of the last batch."""
    whole = model.generate(PROMPTS, num_samples=3, seed=4)
    made = model.generate(PROMPTS, num_samples=3, seed=4, batch_size=5)
    np.testing.assert_array_equal(made, whole)
    for row, which in zip(whole, np.repeat(range(4), 3), strict=True):
        prompt = PROMPTS[which]
        np.testing.assert_array_equal(row[: len(prompt)], prompt)
    assert len(np.unique(whole[6:9], axis=0)) > 1  # the samples of a prompt
    again = model.generate(PROMPTS, num_samples=3, seed=4)
    np.testing.assert_array_equal(again, whole)
    other = model.generate(PROMPTS, num_samples=3, seed=5)
    assert (other != whole).any()


@pytest.mark.eager
def test_end_token_stops_and_fills(model):
    prompts = [[1], [2, 1], [2, 2]] * 4  # one given is no end
    free = model.generate(prompts, seed=1)
    for size in (12, 1):  # all together, and each until its own end
        made = model.generate(prompts, seed=1, end_token=2, batch_size=size)
        ended = set()
        for row, text, prompt in zip(made, free, prompts, strict=True):
            given = len(prompt)
            ends = given + np.flatnonzero(text[given:] == 2)
            wanted = text.copy()
            if len(ends):
                wanted[ends[0] :] = 2
                ended.add(ends[0])
            np.testing.assert_array_equal(row, wanted)
        assert len(ended) > 1 and (made != free).any()


@pytest.mark.heavy
def test_forms_of_prompts(blocks):
    made = blocks.generate([[1, 2], [0, 0]], seed=4)
    array = blocks.generate(np.array([[1, 2], [0, 0]]), seed=4)
    np.testing.assert_array_equal(array, made)
    assert blocks.generate(PROMPTS[:2], max_length=4).shape == (2, 4)
    for none in (None, [], [[]]):
        found = blocks.generate(none, num_samples=2, seed=4)
        np.testing.assert_array_equal(found, blocks.generate([[], []], seed=4))
    # Nothing is left to write.
    whole = [[0, 1, 2, 0, 1, 2], [1, 1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(blocks.generate(whole), whole)


@pytest.mark.heavy
def test_tokens_are_drawn_from_the_prediction(blocks):
    tokens = np.array([[1, 2, 0, 0, 0, 0]] * 6, "int32")
    logits = blocks.predict(tokens, verbose=0)[0, 2]
    texts = []
    for temperature, kept in ((1.0, 3), (0.3, 3), (3.0, 3), (3.0, 2), (3.0, 1)):
        wanted = np.exp(log_softmax(logits / temperature))
        order = np.argsort(-wanted)
        wanted[order[kept:]] = 0.0
        # Just more than one token fewer has.
        top_p = 1.0 if kept == 3 else wanted[order[: kept - 1]].sum() + 0.01
        wanted /= wanted.sum()
        made = blocks.generate(
            [[1, 2]],
            temperature=temperature,
            top_p=top_p,
            num_samples=1000,
            batch_size=1000,
        )
        assert (made[:, :2] == [1, 2]).all()
        found = np.bincount(made[:, 2], minlength=3) / 1000
        error = np.sqrt(wanted * (1 - wanted) / 1000)
        assert (np.abs(found - wanted) <= 4 * error + 1e-9).all()
        texts.append(len(np.unique(made, axis=0)))  # of 81
    assert 1 == texts[4] < texts[3] < texts[2]
    assert texts[1] < texts[0] < texts[2] <= 81


# Strings.


@keras.saving.register_keras_serializable("tests")
class Ending(Text8Tokenizer):
    """Text whose spaces end it."""

    end_token_id = 0


class Unregistered(Text8Tokenizer):
    """What Keras could not make again."""


def with_letters(twin=False, tokenizer=None):
    kwargs = {"vocabulary_size": 27, "num_layers": 1, "num_blocks": 1}
    kwargs |= {} if twin else PLAIN
    return randomize(make(twin=twin, tokenizer=tokenizer, **kwargs))


@pytest.mark.heavy
@pytest.mark.parametrize("twin", [False, True])
def test_strings_in_and_out(twin):
    model, plain = with_letters(twin), with_letters(twin)
    model.tokenizer = tokenizer = Text8Tokenizer()
    prompts = ["the", " a", "z"]
    tokens = [tokenizer(text) for text in prompts]
    wanted = plain.generate(tokens, seed=2)
    made = model.generate(prompts, seed=2)
    assert made == [tokenizer.detokenize(row) for row in wanted]
    assert [text[: len(p)] for text, p in zip(made, prompts, strict=True)] == (
        prompts
    )
    (text,) = model.generate("the", seed=2)
    assert text == made[0] and len(text) == 6
    (text,) = model.generate(seed=2)
    assert isinstance(text, str) and len(text) == 6
    np.testing.assert_array_equal(model.generate(tokens, seed=2), wanted)
    refused(lambda: plain.generate("the"), "tokenizer=None")
    whole = "it is a truth universally acknowledged"
    cut = tokenizer(whole)[:36].reshape(6, 6)
    assert model.evaluate(whole) == plain.evaluate(cut)
    # Where it ends, the text does; not where the prompt says so.
    model.tokenizer = Ending()
    ends = 0
    for seed in range(18, 26):  # spaces are rare
        rows = plain.generate(tokens, seed=seed)
        made = model.generate(prompts, seed=seed)
        for text, row, prompt in zip(made, rows, prompts, strict=True):
            rest = tokenizer.detokenize(row)[len(prompt) :]
            assert text == prompt + rest.split(" ")[0]
            ends += " " in rest
    assert ends > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Ending, Unregistered])
@pytest.mark.parametrize("twin", [False, True])
def test_saved_with_its_tokenizer(tmp_path, twin, kind):
    model = with_letters(twin, kind())
    made = model.generate(["the"], temperature=0)
    model.save(tmp_path / "ar.keras")
    loaded = keras.saving.load_model(tmp_path / "ar.keras")
    if kind is Unregistered:
        assert loaded.tokenizer is None
        loaded.tokenizer = kind()
    assert type(loaded.tokenizer) is kind
    assert loaded.generate(["the"], temperature=0) == made


# Refusals.

REFUSED = {
    "long prompt": ({"prompts": [[0] * 7]}, r"\(7,\)"),
    "longer than asked": ({"prompts": [[0] * 4], "max_length": 3}, r"\(4,\)"),
    "token": ({"prompts": [[1], [0, 3]]}, "0 to 3"),
    "the beginning": ({"prompts": np.full((2, 2), 3)}, "3 to 3"),
    "negative": ({"prompts": [[-1]]}, "-1 to -1"),
    "floats": ({"prompts": [[0.5]]}, "float64"),
    "one list": ({"prompts": [0, 1]}, r"\(\)"),
    "too deep": ({"prompts": [[[0, 1]]]}, r"\(1, 2\)"),
    "strings": ({"prompts": ["ab"]}, "tokenizer=None"),
    "length": ({"max_length": 7}, "max_length=7"),
    "no length": ({"max_length": 0}, "max_length=0"),
    "length 2.5": ({"max_length": 2.5}, "max_length=2.5"),
    "samples": ({"num_samples": 0}, "num_samples=0"),
    "batch": ({"batch_size": 0}, "batch_size=0"),
    "seed": ({"seed": -1}, "seed=-1"),
    "cold": ({"temperature": -0.1}, "temperature=-0.1"),
    "nan": ({"temperature": float("nan")}, "temperature=nan"),
    "no share": ({"top_p": 0}, "top_p=0"),
    "large share": ({"top_p": 1.1}, "top_p=1.1"),
    "no number": ({"top_p": "0.9"}, "top_p='0.9'"),
    "end": ({"end_token": -1}, "end_token=-1"),
    "late end": ({"end_token": 99}, "end_token=99"),
}
STEPS = {
    "too few": ({"num_steps": 2}, "num_steps=2"),
    "fraction": ({"num_steps": 3.5}, "num_steps=3.5"),
}


@pytest.mark.parametrize("name", [*REFUSED, *STEPS])
def test_generate_refuses(blocks, name):
    kwargs, match = (REFUSED | STEPS)[name]
    refused(lambda: blocks.generate(**kwargs), match)
    if name in REFUSED:
        refused(lambda: make(twin=True).generate(**kwargs), match)
