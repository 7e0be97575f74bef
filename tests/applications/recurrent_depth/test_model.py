"""A recurrent core as a denoiser: no leak, caches, any number of steps."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_ar import nats, random_tokens, randomize
from helpers.small_vit import refused
from keras_dblocks.applications.recurrent_depth import RecurrentDepth
from keras_dblocks.samplers import EulerSampler

SIZES = {
    "vocabulary_size": 3,
    "sequence_length": 6,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 24,
    "prelude_layers": 1,
    "core_layers": 2,
    "coda_layers": 1,
    "conditioning_dim": 8,
}


def make(initial=0, **kwargs):
    keras.utils.set_random_seed(initial)
    return RecurrentDepth(**{**SIZES, **kwargs})


@pytest.fixture(scope="module", params=["states", "concat", "handed"])
def model(request):
    handed = request.param == "handed"
    model = make(
        context="states" if handed else request.param,
        hand_over="state" if handed else "signal",
    )
    model.sampler = EulerSampler(4)
    return randomize(model)


@pytest.mark.eager
def test_no_leak(model):
    tokens = random_tokens(6)
    other = tokens.copy()
    rows = np.arange(6)
    other[rows, rows] = (other[rows, rows] + 1) % 3
    before, after = (model.predict(t, verbose=0) for t in (tokens, other))
    differs = (before != after).any(-1)
    assert not np.tril(differs).any()
    assert differs[np.triu_indices(6, 1)].all()


@pytest.mark.eager
def test_cached_is_uncached(model):
    prompts = [np.array([1, 2, 0]), np.array([0]), np.array([], "int32")]
    written = model.generate(prompts, temperature=0, num_steps=4)
    likeliest = model.predict(written, verbose=0).argmax(-1)
    for row, prompt in enumerate(prompts):
        np.testing.assert_array_equal(written[row, : len(prompt)], prompt)
        rest = slice(len(prompt), None)
        np.testing.assert_array_equal(written[row, rest], likeliest[row, rest])


@pytest.mark.slow
def test_a_caches_logits_are_those_of_the_whole(model):
    tokens = random_tokens(2)
    writer = model.make_writer(4)
    past = model.condition_of(ops.convert_to_tensor(tokens))
    caches = writer.fill(ops.zeros_like(past), 0.0)  # of other tokens
    start = ops.zeros((2, 1, 1))
    for i in range(6):
        logits, caches = writer.write(past[:, i], caches, i, start)
        wanted = model.predict(tokens, verbose=0)[:, i]
        np.testing.assert_allclose(
            ops.convert_to_numpy(logits), wanted, atol=1e-5
        )


@pytest.mark.slow
def test_exit_when_nothing_changes():
    """A threshold of 0 never ends early, one of 1 after a single step."""
    model = randomize(make())
    model.sampler = EulerSampler(2)
    written = {
        (steps, threshold): model.generate(
            num_samples=2,
            max_length=4,
            num_steps=steps,
            exit_threshold=threshold,
            temperature=0,
        )
        for steps, threshold in ((2, None), (2, 0.0), (2, 1.0), (1, None))
    }
    np.testing.assert_array_equal(written[2, None], written[2, 0.0])
    np.testing.assert_array_equal(written[2, 1.0], written[1, None])


@pytest.mark.slow
def test_likelihood_after_any_number_of_steps(model):
    tokens = random_tokens(5)
    before = model.sampler
    for steps in (1, 3):
        model.sampler = EulerSampler(steps)
        entropy = model.evaluate(tokens, return_dict=True)["cross_entropy"]
        logits = model.predict(tokens, verbose=0)
        np.testing.assert_allclose(
            entropy, nats(logits, tokens).mean(), rtol=1e-5
        )
    model.sampler = before


@pytest.mark.eager
def test_training_lowers_the_likelihood_at_every_number_of_steps():
    rows = (np.arange(6) + np.arange(3)[:, None]) % 3  # 0 follows 2, ...
    tokens = np.tile(rows, (32, 1)).astype("int32")
    model = make(prelude_layers=0, core_layers=1, coda_layers=0)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(tokens, epochs=9, batch_size=16, verbose=0)
    for steps in (1, 4):
        model.sampler = EulerSampler(steps)
        # Only the first token is free: ln 3 / 6.
        assert model.evaluate(rows)[0] < 0.35


@pytest.mark.slow
def test_hand_overs_are_states_of_a_chain():
    model = randomize(make())
    model.compile("sgd", on_policy=1.0)
    tokens = ops.convert_to_tensor(random_tokens(4))
    highest = model.noise.maximum
    seen, block = [], model.blocks[0]
    constants = block.hand_over_constants()
    for step in range(12):
        block.draws.assign(step)
        (state, level), _ = block.begin_hand_over(
            (tokens, None, None), 1.0, constants
        )
        state, level = map(ops.convert_to_numpy, (state, level))
        assert (level == level[0]).all()
        # No step: the start, at the highest level. Else: an earlier answer.
        fresh = np.isclose(level[0], highest)
        assert fresh == (not state.any())
        seen.append(fresh)
    assert 0 < sum(seen) < len(seen)


@pytest.mark.quick
def test_saved_and_loaded(tmp_path, model):
    tokens = random_tokens(3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(tokens, verbose=0),
        model.predict(tokens, verbose=0),
        atol=1e-5,
    )


@pytest.mark.eager
@pytest.mark.quick
def test_reference_trains_and_draws():
    model = make(reference=True)
    model.sampler = EulerSampler(3, grid="equal_mass", start="noise")
    model.compile("adamw")
    model.fit(random_tokens(16), verbose=0)
    first, second = (
        model.generate(num_samples=4, seed=seed) for seed in (0, 1)
    )
    assert first.shape == (4, 6) and (first != second).any()


def test_refusals():
    refused(lambda: make(num_blocks=2), "one block")
    refused(lambda: make(context="all"), "context")
    refused(lambda: make(core_layers=0), "core_layers")
    model = make()
    model.compile("adamw")
    refused(lambda: model.fit(random_tokens(4) + 1), "Tokens must lie")
    refused(lambda: model.fit(random_tokens(4), random_tokens(4)), "alone")
