"""Padding is no data: it counts in no loss, likelihood or bound."""

import numpy as np
import pytest
from keras import ops

from helpers import small_mdm, small_systems
from helpers.small_ar import nats
from helpers.small_vit import refused
from keras_dblocks.diffusion.masking import MaskingNoise
from keras_dblocks.streams import Stream, rows_of

PADDING = 10  # of the small systems' 11 tokens
LENGTHS = np.array([8, 3, 1, 8, 5, 2])
COUNTING = np.arange(8) < LENGTHS[:, None]
CAUSAL = ["ar", "recurrent_depth"]
numpy = ops.convert_to_numpy


def texts():
    tokens = np.random.default_rng(0).integers(0, PADDING, (6, 8))
    return np.where(COUNTING, tokens, PADDING).astype("int32")


def make(name, twin=False):
    return small_systems.make(name, twin, padding_token=PADDING)


@pytest.mark.slow
@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_likelihood_is_per_token_that_counts(name, twin):
    model, tokens = make(name, twin), texts()
    each = nats(model.predict(tokens, verbose=0), tokens)
    found = model.evaluate(tokens, return_dict=True)
    wanted = pytest.approx(each[COUNTING].mean(), abs=1e-4)
    assert found["cross_entropy"] == wanted
    assert found["num_tokens"] == LENGTHS.sum()


@pytest.mark.eager
@pytest.mark.parametrize("name", [*CAUSAL, "mdm"])
def test_a_batch_weighs_its_rows_by_their_tokens(name):
    block, tokens = make(name).block(0), texts()

    def loss(chosen):
        rows = ops.convert_to_tensor(chosen, dtype="int32")
        part = ops.convert_to_tensor(tokens[chosen])
        return float(
            numpy(block.denoising_loss(part, None, training=False, rows=rows))
        )

    alone = [loss(np.array([i])) for i in range(6)]
    wanted = (LENGTHS * alone).sum() / LENGTHS.sum()
    assert loss(np.arange(6)) == pytest.approx(wanted, rel=1e-4)
    weight = block.batch_weight((ops.convert_to_tensor(tokens), None, None))
    assert float(weight) == pytest.approx(LENGTHS.sum() / 8)


@pytest.mark.parametrize("name", CAUSAL)
def test_loss_of_a_twin(name):
    model, tokens = make(name, twin=True), texts()
    logits = model.predict(tokens, verbose=0)
    entropies = nats(logits, tokens)
    for weight in (None, np.array([1.0, 0.0, 2.0, 1.0, 1.0, 1.0], "float32")):
        found = model.compute_loss(
            ops.convert_to_tensor(tokens),
            y_pred=ops.convert_to_tensor(logits),
            sample_weight=weight,
        )
        each = COUNTING if weight is None else COUNTING * weight[:, None]
        wanted = (entropies * each).sum() / LENGTHS.sum()
        assert float(numpy(found)) == pytest.approx(wanted, rel=1e-4)


def test_padding_is_never_masked():
    noise = MaskingNoise(11, padding_token=PADDING)
    tokens = ops.convert_to_tensor(texts())
    level = ops.full((6,), 0.9)
    noisy = noise.corrupt(tokens, level, Stream(0, "noise"), rows_of(6), 0)
    masked = numpy(noisy) == 11
    assert not masked[~COUNTING].any()
    assert 0.7 < masked[COUNTING].mean() < 1.0


@pytest.mark.slow
def test_bound_is_per_token_that_counts():
    """It is the whole bound of the same text without the padding's share."""
    model = small_mdm.randomize(small_mdm.make(padding_token=2))
    tokens = np.array([[0, 1, 0, 2, 2, 2], [1, 1, 0, 1, 2, 2]], "int32")
    counts = np.array([3, 4])
    wanted = 0.0
    for row, count in zip(tokens, counts, strict=True):
        hidden = small_mdm.masks(count)
        hidden = np.pad(hidden, ((0, 0), (0, 6 - count)))
        bounds = model.partition.boundaries

        def expected(level, row=row, hidden=hidden, count=count):
            chance = np.where(hidden[:, :count], level, 1 - level).prod(1)
            losses = small_mdm.losses(model, row[None], hidden, level)
            return losses[0] @ chance

        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            wanted += count * small_mdm.integral(expected, low, high)
    wanted /= counts.sum() * np.log(2)
    many = np.tile(tokens, (400, 1))
    found = model.evaluate(many, batch_size=400, return_dict=True)
    whole = found["bits_per_token"] - found["reconstruction_bits_per_token"]
    assert whole == pytest.approx(wanted, abs=5 * found["standard_error"])
    assert found["num_tokens"] == 2800


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CAUSAL, "mdm"])
def test_it_trains(name):
    model = make(name)
    model.compile("adamw", on_policy="auto")
    history = model.fit(texts(), batch_size=3, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("name", [*CAUSAL, "mdm"])
def test_refusals(name):
    for twin in [False, True]:
        refused(
            lambda twin=twin: small_systems.make(name, twin, padding_token=11),
            "`padding_token`",
        )
    model = make(name)
    model.compile("adamw")
    refused(
        lambda: model.fit(np.full((4, 8), PADDING), verbose=0),
        "tokens that count",
        model,
    )


def test_the_start_from_noise_gives_no_likelihood():
    model = small_systems.make("ar", reference=True)
    with pytest.warns(UserWarning, match="starts from noise"):
        model.evaluate(texts(), return_dict=True)
