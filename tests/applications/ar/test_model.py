"""Next-token prediction in blocks: no leak, an honest likelihood, training."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_ar import (
    MODELS,
    PLAIN,
    data,
    make,
    nats,
    random_tokens,
    randomize,
    shared,
)
from helpers.small_vit import equal, refused, state, values
from keras_dblocks.applications.ar import ARTransformer
from keras_dblocks.samplers import EulerSampler

numpy = ops.convert_to_numpy


def changed(tokens):
    """Row i with another token i."""
    other = tokens.copy()
    rows = np.arange(len(tokens))
    other[rows, rows] = (other[rows, rows] + 1) % 3
    return other


def check_differ_from(before, after, first):
    """Row i of `(..., N, T, V)` is the same to the bit before `i + first`."""
    differs = (before != after).any(-1)  # (..., N, T)
    rows, places = np.indices(differs.shape[-2:])
    later = places >= rows + first
    assert not (differs & ~later).any()
    assert differs.sum() > 5


def check_no_leak(model):
    tokens = random_tokens(6)
    pair = (tokens, changed(tokens))
    before, after = (model.predict(t, verbose=0) for t in pair)
    assert before.shape == (6, 6, 3)
    check_differ_from(before, after, 1)
    if hasattr(model, "blocks"):  # after each of them
        check_differ_from(*(model.predict_steps(t) for t in pair), 1)


@pytest.mark.eager
@pytest.mark.parametrize("name", MODELS)
def test_no_leak(name):
    check_no_leak(shared(name))


@pytest.mark.parametrize("name", ["blocks", "two_streams"])
def test_what_is_believed_of_a_token_is_seen_from_it_on(name):
    """In one stream; of two, the clean one never sees it."""
    model = shared(name)
    noisy = np.random.default_rng(0).normal(size=(6, 6, 16)).astype("float32")
    level = np.geomspace(0.01, 10, 6).astype("float32")
    past, rows = random_tokens(6), np.arange(6)
    other = noisy.copy()
    other[rows, rows] += 1.0
    logits, after, later = (
        model.denoise(z, level, x, block=1)
        for z, x in ((noisy, past), (other, past), (noisy, changed(past)))
    )
    differs = (logits != after).any(-1)
    own = np.eye(6, dtype=bool)
    if name == "two_streams":
        np.testing.assert_array_equal(differs, own)
    else:
        assert differs[own].all() and not np.tril(differs, -1).any()
    check_differ_from(logits, later, 0)


@pytest.mark.parametrize("name", ["simplex", "twin"])
def test_likelihood(name):
    model = shared(name)
    texts = np.arange(3**6)[:, None] // 3 ** np.arange(6) % 3  # all there are
    texts = texts.astype("int32")
    each = nats(model.predict(texts, batch_size=243, verbose=0), texts)
    assert np.exp(-each.sum(1)).sum() == pytest.approx(1.0, abs=1e-5)
    each = each.mean(1)
    assert np.ptp(each) > 0.1
    result = model.evaluate(texts, batch_size=243, return_dict=True)
    keys = ["cross_entropy", "standard_error", "num_tokens"]
    if hasattr(model, "blocks"):
        keys += [f"block_{i}_cross_entropy" for i in range(3)]
        last = pytest.approx(result["cross_entropy"], rel=1e-5)
        assert result[keys[-1]] == last
    assert list(result) == keys
    assert model.evaluate(texts, batch_size=243) == list(result.values())
    assert result["cross_entropy"] == pytest.approx(each.mean(), abs=1e-5)
    wanted = each.std(ddof=1) / len(texts) ** 0.5
    assert result["standard_error"] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.eager
def test_likelihood_of_each_block_and_of_a_new_sampler():
    model, tokens = randomize(make(**PLAIN)), random_tokens(6)
    for steps, ends in ((3, [0, 1, 2]), (5, [1, 3, 4])):
        model.sampler = EulerSampler(num_steps=steps)
        entropies = nats(model.predict_steps(tokens), tokens).mean(2)
        assert len(entropies) == steps
        result = model.evaluate(tokens, return_dict=True)
        found = [result[f"block_{i}_cross_entropy"] for i in range(3)]
        wanted = entropies.mean(1)[ends]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert len({*found}) == 3
    # One text, one row of a batch: its own.
    one = model.evaluate(tokens[:1], return_dict=True)
    wanted = pytest.approx(entropies[-1, 0], abs=1e-5)
    assert one["cross_entropy"] == wanted
    assert np.isnan(one["standard_error"])


# Training.


def make_two(**kwargs):
    return make(num_layers=2, num_blocks=2, **{**PLAIN, **kwargs})


@pytest.mark.heavy
def test_it_learns_the_rule():
    model, text = make_two(), data(32)
    model.compile(keras.optimizers.AdamW(1e-2), on_policy=0.5)
    history = model.fit(
        data(256),
        batch_size=32,
        epochs=12,
        verbose=0,
        validation_data=text,
        validation_freq=12,
    ).history
    result = model.evaluate(text, return_dict=True)
    names = [f"block_{i}_cross_entropy" for i in range(2)]
    losses = [f"block_{i}_loss" for i in range(2)]
    wanted = ["cross_entropy", "standard_error", "num_tokens"]
    wanted += [*names, *losses]
    assert list(result) == wanted
    # Validation in `fit` is on the same fixed noise.
    for name in losses:
        wanted = pytest.approx(result[name], rel=1e-4)
        assert history[f"val_{name}"] == [wanted]
    # One free token of six, and the rest follows: log(3) / 6 = 0.183.
    for name in ("cross_entropy", *names):
        assert 0.18 < result[name] < 0.25
    made = model.generate(num_samples=64, batch_size=64)
    assert (np.diff(made, axis=1) % 3 == 1).mean() > 0.95
    assert len({*made[:, 0].tolist()}) == 3


@pytest.mark.heavy
def test_reference_trains_and_does_not_leak():
    model = make_two(reference=True)
    model.compile(keras.optimizers.AdamW(1e-2), block_order=0)
    assert model.on_policy == 0.0
    losses = model.fit(data(256), batch_size=32, epochs=4, verbose=0)
    losses = losses.history["loss"]
    assert losses[-1] < losses[0] - 0.1
    check_no_leak(randomize(model))


def sgd():
    return keras.optimizers.SGD(0.1, weight_decay=0.01, global_clipnorm=0.5)


@pytest.mark.heavy
def test_both_ways_to_train_are_equal():
    one, two = (randomize(make_two(), 0.1) for _ in range(2))
    start, text = values(two.trainable_variables), random_tokens(32)
    alone = one.block(1)
    alone.compile(sgd())
    alone.fit(text, batch_size=8, verbose=0, shuffle=False)
    two.compile(sgd(), on_policy=0, block_order=1)
    two.fit(text, batch_size=8, verbose=0, shuffle=False)
    idle = {id(v) for v in two.own_variables()[0]}
    moved = 0
    for variable, first, ours, theirs in zip(
        two.trainable_variables,
        start,
        values(one.trainable_variables),
        values(two.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        if id(variable) in idle:
            np.testing.assert_array_equal(theirs, first)
        moved += np.abs(theirs - first).max() > 1e-4
    assert moved > 15


# Files.


@pytest.mark.parametrize("name", MODELS)
def test_config_makes_the_same_model(name):
    config = shared(name).get_config()
    assert type(shared(name)).from_config(config).get_config() == config


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["options", "twin"])
def test_saved_whole_and_in_blocks(tmp_path, name):
    model = shared(name)
    tokens = random_tokens(6)
    wanted = model.predict(tokens, verbose=0)
    model.save(tmp_path / "ar.keras")
    loaded = keras.saving.load_model(tmp_path / "ar.keras")
    logits = loaded.predict(tokens, verbose=0)
    np.testing.assert_allclose(logits, wanted, atol=1e-6)
    if not hasattr(model, "blocks"):
        return
    paths = [tmp_path / f"block_{i}.keras" for i in range(3)]
    for i, path in enumerate(paths):
        model.block(i).save(path)
    logits = ARTransformer.from_blocks(paths).predict(tokens, verbose=0)
    np.testing.assert_allclose(logits, wanted, atol=1e-6)
    alone = keras.saving.load_model(paths[0])
    first = model.predict_steps(tokens)[0]
    logits = alone.predict(tokens, verbose=0)
    np.testing.assert_allclose(logits, first, atol=1e-5)


@pytest.mark.heavy
@pytest.mark.quick
def test_twin_trains_on_after_loading(tmp_path):
    twin = make(twin=True, num_layers=2, seed=3)
    twin.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1))
    first = twin.evaluate(data())[0]
    losses = twin.fit(data(), batch_size=8, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] == pytest.approx(first, abs=0.3)
    twin.save(tmp_path / "twin.keras")
    loaded = keras.saving.load_model(tmp_path / "twin.keras")
    assert type(loaded) is type(twin) and loaded.compiled
    assert loaded.training_step() == twin.training_step() == 15
    assert equal(state(loaded), state(twin))
    assert loaded.get_config() == twin.get_config()
    histories = [
        one.fit(data(), batch_size=8, verbose=0).history
        for one in (twin, loaded)
    ]
    assert histories[0] == histories[1]
    assert equal(state(loaded), state(twin))
    assert twin.evaluate(data()) == loaded.evaluate(data())


# Refusals.

CONSTRUCTOR = {
    "heads": ({"num_heads": 5}, "num_heads=5"),
    "odd heads": ({"hidden_dim": 6}, "hidden_dim=6"),
    "groups": ({"num_heads": 4, "num_key_value_heads": 3}, "_heads=3"),
    "vocabulary": ({"vocabulary_size": 1}, "vocabulary_size=1"),
    "length": ({"sequence_length": 0}, "sequence_length=0"),
    "layers": ({"num_layers": 0}, "num_layers=0"),
}
BLOCKS_ONLY = {
    "bridge": ({"bridge": "raw"}, "bridge='raw'"),
    "dropout": ({"dropout": 1.5}, "dropout=1.5"),
    "conditioning": ({"conditioning_dim": 0}, "conditioning_dim=0"),
    "two streams": (
        {"reference": True, "hand_over": "state"},
        'hand_over="signal"',
    ),
    "simplex": ({"simplex": True, "tied": True}, "tied=True"),
}


@pytest.mark.parametrize("name", [*CONSTRUCTOR, *BLOCKS_ONLY])
def test_constructor_refuses(name):
    kwargs, match = (CONSTRUCTOR | BLOCKS_ONLY)[name]
    for twin in (False, True) if name in CONSTRUCTOR else (False,):
        refused(lambda twin=twin: make(twin=twin, **kwargs).build(), match)


def test_fit_and_evaluate_refuse():
    text, model, twin = data(), make_two(), make(twin=True, num_layers=1)
    models = (model, model.block(0), twin)
    cases = {
        "too large": (text + 1, None, "1 to 3"),
        "negative": (text - 1, None, "-1 to 1"),
        "length": (text[:, :5], None, r"\(24, 5\)"),
        "one row": (text.reshape(-1), None, r"\(144,\)"),
        "floats": (text / 2, None, "float64"),
        "targets": (text, text, "y"),
        "none": (text[:0], None, "Received"),
    }
    for one in models:
        one.built or one.build()
        one.compile("sgd")
        before = state(one)
        for x, y, match in cases.values():
            for act in (one.fit, one.evaluate):
                refused(lambda a=act, x=x, y=y: a(x, y, verbose=0), match)
        for act in (
            lambda one=one: one.fit(text, validation_data=(text + 1,)),
            lambda one=one: one.predict(text + 1, verbose=0),
        ):
            refused(act, "1 to 3")
        refused(lambda one=one: one.compile(loss="mse"), "loss='mse'")
        assert equal(state(one), before)
    for one in (model, twin):
        refused(lambda one=one: one.evaluate(text, steps=2), "steps")
