"""Huginn: truncated backpropagation, likelihood, caches, files."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from helpers.gradients import gradients
from helpers.small_vit import equal, refused, state, values
from keras_dblocks.applications.recurrent_depth.huginn import iterations
from keras_dblocks.applications.recurrent_depth.huginn.model import Huginn

SIZES = {
    "vocabulary_size": 3,
    "sequence_length": 8,
    "prelude_layers": 1,
    "core_layers": 1,
    "coda_layers": 1,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 24,
    "mean_recurrence": 4,
    "backprop_depth": 2,
}

numpy = ops.convert_to_numpy


def make(initial=0, **kwargs):
    """Same sizes every time; `initial` decides the first weights."""
    keras.utils.set_random_seed(initial)
    model = Huginn(**{**SIZES, **kwargs})
    model.build()
    return model


def randomize(model, scale=0.1):
    """Weights of a network that does something."""
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        noise = scale * rng.normal(size=variable.shape)
        variable.assign(numpy(variable) + noise)
    return model


def tokens_of(count, length=8):
    rng = np.random.default_rng(2)
    return rng.integers(0, 3, (count, length)).astype("int32")


def text(count=32):
    """Token 0 follows 2, 1 follows 0, 2 follows 1."""
    first = np.random.default_rng(0).integers(0, 3, (count, 1))
    return ((first + np.arange(8)) % 3).astype("int32")


def nats(logits, tokens):
    logits = logits.astype("float64")
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(logits, tokens[..., None], -1)[..., 0]


def predict(model, tokens, **kwargs):
    return model.predict(tokens, verbose=0, **kwargs)


def test_prediction_sees_the_past_alone():
    model = randomize(make())
    tokens = np.repeat(tokens_of(1), 9, 0)
    tokens[np.arange(8), np.arange(8)] += 1
    *after, before = predict(model, tokens % 3)
    for i in range(8):
        np.testing.assert_array_equal(after[i][: i + 1], before[: i + 1])
        moved = np.abs(after[i] - before).max(-1)
        assert (moved[i + 1 :] > 1e-3).all()


def test_start_is_of_the_seed_alone():
    model = make(seed=3, sequence_length=64)
    start = numpy(model.start(ops.zeros((2, 1, 64, 16))))
    np.testing.assert_array_equal(start[0], start[1])
    for drawn in (start, numpy(iterations.random_start((1, 1, 64, 16), 3))):
        assert drawn.std() > 0.6 and np.abs(drawn).max() <= 3 * 0.4**0.5
        law = stats.truncnorm(-3, 3, scale=0.4**0.5)
        assert stats.kstest(drawn[0].reshape(-1), law.cdf).pvalue > 1e-3
    # A shorter text has the same states.
    part = numpy(model.start(ops.zeros((1, 1, 5, 16)), index=2))
    np.testing.assert_array_equal(part[0, 0], start[0, 0, 2:7])


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [None, 1, 3])
def test_likelihood_after_any_number_of_iterations(num_steps):
    model, tokens = randomize(make()), tokens_of(6)
    options = {"num_steps": num_steps}
    logits = predict(model, tokens, **options)
    by_hand = model.context(np.insert(tokens[:, :-1], 0, 3, 1))
    first = model.start(by_hand)
    for _ in range(num_steps or 4):
        first = model.iteration(first, by_hand)
    by_hand = numpy(model.logits(first))
    np.testing.assert_allclose(logits, by_hand, atol=1e-5)
    result = model.evaluate(tokens, **options)
    parts = model.evaluate(tokens, batch_size=4, **options)
    np.testing.assert_allclose(result, parts, rtol=1e-5)
    np.testing.assert_allclose(result[0], nats(logits, tokens).mean(), 1e-5)
    # Set for the call alone.
    again = predict(model, tokens)
    assert np.array_equal(again, logits) == (num_steps is None)


def entropy(model, state, tokens):
    return model.compute_loss(tokens, y_pred=model.logits(state))


def inputs(count=3):
    tokens = tokens_of(count)
    start = np.random.default_rng(5).normal(size=(count, 1, 8, 16))
    return tokens, ops.convert_to_tensor(start.astype("float32"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
def test_gradients_of_the_last_iterations_alone(count):
    model = randomize(make())
    tokens, start = inputs()
    # What comes before is a number, to the explicit steps.
    free = max(count - 2, 0)
    before = model.iterated(start, model.context(tokens), free)
    before = ops.convert_to_tensor(numpy(before))

    def truncated():
        context = model.context(tokens)
        drawn = ops.convert_to_tensor(count, dtype="int32")
        return entropy(model, model.unrolled(start, context, drawn), tokens)

    def explicit(first=before, number=count - free):
        context = model.context(tokens)
        for _ in range(number):
            first = model.iteration(first, context)
        return entropy(model, first, tokens)

    variables = model.trainable_variables
    ours = gradients(truncated, variables)
    wanted = gradients(explicit, variables)
    for one, other in zip(ours, wanted, strict=True):
        # The context has gradients too, through each of the iterations.
        assert np.abs(other).max() > 1e-5
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())
    if free:
        wanted = gradients(lambda: explicit(start, count), variables)
        last = {id(v) for v in model.coda[0].variables + model.norm.variables}
        for variable, one, other in zip(variables, ours, wanted, strict=True):
            same = np.allclose(one, other, atol=1e-3 * np.abs(other).max())
            assert same == (id(variable) in last)


@pytest.mark.slow
def test_a_compiled_step_draws_anew():
    tokens, options = text(8), {"mean_recurrence": 3}
    model, other = make(**options), make(**options)
    model.compile(keras.optimizers.SGD(0.0))
    losses = [model.train_on_batch(tokens) for _ in range(4)]
    shifted = np.insert(tokens[:, :-1], 0, 3, 1)
    wanted, drawn = [], []
    for _ in range(4):
        before = numpy(other.seed_generator.state)
        drawn.append(int(other.draw_iterations()))
        other.seed_generator.state.assign(before)
        logits = other.following(shifted, training=True)
        wanted.append(float(numpy(other.compute_loss(tokens, y_pred=logits))))
    assert len(set(drawn)) > 1
    assert len(set(wanted)) == 4
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_a_seed_draws_the_same_and_another_does_not():
    drawn = []
    for seed in (0, 0, 1, 2):
        model = make(seed=seed)
        drawn.append([int(model.draw_iterations()) for _ in range(20)])
    assert drawn[0] == drawn[1]
    # Nor is a seed's sequence another's, a few steps later.
    for other in drawn[2:]:
        for shift in range(8):
            assert drawn[0][shift:] != other[: 20 - shift]
            assert other[shift:] != drawn[0][: 20 - shift]


@pytest.mark.heavy
def test_it_learns():
    model, tokens = make(), text()
    model.compile(keras.optimizers.Adam(1e-2))
    before = model.evaluate(tokens, return_dict=True)["cross_entropy"]
    history = model.fit(
        tokens,
        batch_size=16,
        epochs=25,
        validation_data=(tokens,),
        verbose=0,
    ).history
    after = model.evaluate(tokens, return_dict=True)["cross_entropy"]
    # Nothing tells the first of 8 tokens.
    assert before > 0.6 and after < 2 * np.log(3) / 8
    assert history["loss"][-1] < history["loss"][0] / 2
    np.testing.assert_allclose(history["val_loss"][-1], after, rtol=1e-5)
    made = model.generate([tokens[0, :3]], temperature=0)
    np.testing.assert_array_equal(made[0], tokens[0])


@pytest.mark.eager
def test_saved_and_loaded(tmp_path):
    model, tokens = randomize(make(seed=4)), text(4)
    model.compile(keras.optimizers.Adam(1e-2))
    model.train_on_batch(tokens)
    model.save(tmp_path / "huginn.keras")
    loaded = keras.saving.load_model(tmp_path / "huginn.keras")
    assert loaded.get_config() == model.get_config()
    assert equal(state(loaded), state(model))
    np.testing.assert_array_equal(
        predict(loaded, tokens), predict(model, tokens)
    )
    # A resumed run draws what would have come.
    drawn, again = (
        [int(one.draw_iterations()) for _ in range(20)]
        for one in (model, loaded)
    )
    assert drawn == again


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    def fit(epochs, *callbacks):
        model = make()
        model.compile(keras.optimizers.Adam(1e-2))
        options = {"epochs": epochs, "callbacks": callbacks, "verbose": 0}
        return model, model.fit(text(), batch_size=8, **options).epoch

    def backup():
        return keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )

    fit(1, backup())
    resumed, epochs = fit(3, backup())
    assert epochs == [1, 2]
    whole, _ = fit(3)
    assert equal(values(resumed.weights), values(whole.weights))


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [1, 3])
def test_cached_equals_uncached(num_steps):
    model, tokens = randomize(make(core_layers=2)), tokens_of(2)
    writer = model.make_writer(num_steps)
    wanted = predict(model, tokens, num_steps=num_steps)
    previous = np.insert(tokens[:, :-1], 0, writer.start_token, 1)
    filled = np.where(np.arange(8) < 4, previous, 0)  # as a prompt of 3 is
    caches = writer.fill(ops.convert_to_tensor(filled), None)
    for i in range(4, 8):
        slot = ops.convert_to_tensor(i, dtype="int32")
        here = ops.convert_to_tensor(previous[:, i])
        logits, caches = writer.write(here, caches, slot, None)
        np.testing.assert_allclose(numpy(logits), wanted[:, i], atol=1e-5)


@pytest.mark.heavy
def test_generated_as_predicted():
    model = randomize(make())
    prompts = [[0], [1, 2, 0]]
    made = model.generate(prompts, num_steps=2, temperature=0)
    for row, prompt in zip(made, prompts, strict=True):
        tokens = np.zeros((1, 8), "int32")
        tokens[0, : len(prompt)] = prompt
        for i in range(len(prompt), 8):
            logits = predict(model, tokens, num_steps=2)
            tokens[0, i] = logits[0, i].argmax()
        np.testing.assert_array_equal(row, tokens[0])


def test_refusals():
    for name in ("core_layers", "backprop_depth", "mean_recurrence"):
        refused(lambda name=name: make(**{name: 0}), f"`{name}` must be")
    refused(lambda: make(hidden_dim=18), "hidden_dim=18")
    model, tokens = make(), text(4)
    refused(lambda: model.compile("adam", loss="mse"), "Leave it out")
    model.compile("adam")
    refused(lambda: model.fit(tokens, tokens), "Pass them alone", model)
    refused(lambda: model.fit(tokens + 1), "Received", model)
    for act in (model.evaluate, model.predict):
        refused(lambda act=act: act(tokens, num_steps=0), "num_steps", model)
