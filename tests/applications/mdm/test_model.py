"""Masked diffusion trains in blocks; its bound is theirs, added up."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_mdm import MASK, SIZES, data, exact_bound, make, randomize
from helpers.small_vit import equal, refused, state, values
from keras_dblocks.applications.mdm import MDM
from keras_dblocks.diffusion.masking import MaskingNoise, MaskingSchedule
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.diffusion.tokens import Tokens
from keras_dblocks.streams import Stream, rows_of

numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def trained():
    model = make(ema_momentum=0.99)
    model.compile(keras.optimizers.AdamW(1e-2, clipnorm=1.0))
    model.fit(data(256), batch_size=32, epochs=60, verbose=0)
    return model


@pytest.mark.heavy
@pytest.mark.quick
def test_it_learns_the_rule(trained):
    fresh, text = make(), data(64)
    before, after = (
        m.evaluate(text, return_dict=True) for m in (fresh, trained)
    )
    assert before["bits_per_token"] == pytest.approx(np.log2(3), abs=0.2)
    # One free token of six, and the rest follows: log2(3) / 6 = 0.26.
    assert 0.25 < after["bits_per_token"] < 0.6
    for i, share in enumerate((0.2, 0.2, 0.6)):  # of the mask ratios
        name = f"block_{i}_bits_per_token"
        assert after[name] < before[name] - 0.3 * share
    keywords = {"order": "confidence", "grid": "uniform", "batch_size": 64}
    made = trained.generate(64, num_steps=6, **keywords)
    assert made.shape == (64, 6) and made.dtype == "int32"
    assert (np.diff(made, axis=1) % 3 == 1).mean() > 0.95
    assert len({*made[:, 0].tolist()}) == 3


@pytest.mark.heavy
def test_infilling(trained):
    text = data(64)
    prompt, place = text.copy(), np.arange(64) % 6
    prompt[np.arange(64), place] = MASK
    made = trained.generate(64, num_steps=5, prompt=prompt, batch_size=64)
    kept = prompt != MASK
    np.testing.assert_array_equal(made[kept], text[kept])
    # A text with one mask belongs to the last block, not to the first.
    assert (made == text).mean() > 0.99
    made = trained.generate(8, num_steps=5, prompt=[1, 2])
    assert (made[:, :2] == [1, 2]).all() and (made < MASK).all()
    whole = trained.generate(64, num_steps=5, prompt=text, batch_size=64)
    np.testing.assert_array_equal(whole, text)


@pytest.mark.eager
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_texts_know_nothing_of_their_batch(order):
    model = randomize(make())
    keywords = {"num_steps": 5, "order": order, "seed": 4}
    whole = model.generate(7, **keywords)
    # But for JAX rounding depends on the batch's shape, and near ties of
    # confidence are ranked by it (one choice can change a row of 7); without
    # noise of its own a row would differ from itself in most places.
    jax = keras.backend.backend() == "jax"
    least = 1.0 if jax or order == "random" else 0.8
    for size in (3, 4):  # the last batch is filled up
        made = model.generate(7, batch_size=size, **keywords)
        assert (made == whole).mean() >= least
    more = model.generate(9, batch_size=4, **keywords)
    assert (more[:7] == whole).mean() >= least
    other = model.generate(7, **{**keywords, "seed": 5})
    assert (other != whole).any() and len(np.unique(whole, axis=0)) > 1


@pytest.mark.eager
def test_copies_of_one_network_have_its_bound():
    alone = randomize(make(num_layers=1, num_blocks=1))
    copies = make(hand_over="signal")
    copies.build()
    for block in copies.blocks:
        for ours, its in zip(
            block.trainable_variables,
            alone.blocks[0].trainable_variables,
            strict=True,
        ):
            ours.assign(numpy(its))
    text, edges = data(2), copies.partition.boundaries
    bits = exact_bound(copies, text)
    wanted = exact_bound(alone, text, edges)
    np.testing.assert_allclose(bits, wanted, atol=1e-4)
    assert wanted.min() > 0.01 and np.ptp(wanted) > 0.01
    many = data(200)
    ours, its = (
        m.evaluate(many, batch_size=400, return_dict=True)
        for m in (copies, alone)
    )
    apart = ours["bits_per_token"] - its["bits_per_token"]
    error = np.hypot(ours["standard_error"], its["standard_error"])
    assert abs(apart) < 4 * error < 0.2 * its["bits_per_token"]
    parts = [v for k, v in ours.items() if k.endswith("_bits_per_token")]
    assert len(parts) == 4
    assert sum(parts) == pytest.approx(ours["bits_per_token"], rel=1e-6)


@pytest.mark.heavy
def test_training_and_bound_know_of_no_schedule():
    losses, bounds, levels = [], [], []
    for schedule in ("linear", "cosine"):
        model = make(schedule=schedule, num_layers=1, num_blocks=1)
        model.compile(keras.optimizers.SGD(0.1))
        history = model.fit(data(), batch_size=8, verbose=0).history
        losses.append(history["loss"])
        bounds.append(model.evaluate(data()))
        levels.append(
            loop.plan(model.sampler, model.partition)[0].calls["level"]
        )
    assert losses[0] == losses[1] and bounds[0] == bounds[1]
    assert levels[0] != levels[1]


@keras.saving.register_keras_serializable("tests")
class RecordedTokens(Tokens):
    """Keeps what the loss was computed from."""

    def loss(self, tokens, logits, noisy, level):
        self.seen = [numpy(t) for t in (logits, noisy, level)]
        return super().loss(tokens, logits, noisy, level)


class Recorder(MDM):
    """Its target records."""

    def make_target(self):
        return RecordedTokens(self.vocabulary_size, self.sequence_length)


def recorded(text, num_blocks, overlap, training):
    """Loss, and what it was computed from, for each block."""
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "num_layers": num_blocks, "num_blocks": num_blocks}
    options = {"overlap": overlap, "hand_over": "signal"}
    model = randomize(Recorder(**sizes, **options))
    for block in model.blocks:
        loss = block.denoising_loss(text, None, training=training)
        yield model, block, float(numpy(loss)), *model.target.seen


@pytest.mark.eager
@pytest.mark.parametrize("num_blocks, overlap", [(1, 0.05), (3, 0.2)])
def test_loss_is_weighted_by_the_mask_ratio(num_blocks, overlap):
    """With one block it is ordinary masked diffusion."""
    text = data(60)
    low, high = np.float64([1e-4, 1.0 - 1e-4])
    width = (high - low) / num_blocks
    for model, block, loss, logits, noisy, level in recorded(
        text, num_blocks, overlap, training=True
    ):
        shifted = logits - logits.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        nats = -np.take_along_axis(log_p, text[..., None], -1)[..., 0]
        masked = noisy == MASK
        np.testing.assert_array_equal(noisy[~masked], text[~masked])
        wanted = (masked * nats).mean(1) / level
        assert loss == pytest.approx(wanted.mean(), rel=1e-4)
        # The range grows by a share of its width, and is cut at the ends.
        lowest = low + (num_blocks - 1 - block.index) * width
        grown = overlap * width if num_blocks > 1 else 0.0
        edges = max(low, lowest - grown), min(high, lowest + width + grown)
        assert model.partition.noise_range(block.index) == pytest.approx(edges)
        assert edges[0] - 1e-6 <= level.min() and level.max() <= edges[1] + 1e-6
        # One ratio in each of 60 equal pieces of it.
        pieces = (level - edges[0]) / (edges[1] - edges[0]) * len(text)
        gaps = np.diff(np.sort(pieces))
        np.testing.assert_allclose(gaps, 1.0, atol=0.02)
        assert masked.mean() == pytest.approx(level.mean(), abs=0.1)


@pytest.mark.eager
def test_validation_is_the_bound_on_fixed_noise():
    text = data(60)
    losses = []
    for _, block, loss, _, _, level in recorded(text, 3, 0.2, training=False):
        low = 1e-4 + (2 - block.index) * 0.9998 / 3
        assert low - 1e-6 <= level.min() and level.max() < low + 0.33334
        losses.append(loss)
    model = randomize(make(overlap=0.2, hand_over="signal"))
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(
        text, validation_data=text, epochs=2, verbose=0, batch_size=60
    ).history
    wanted = pytest.approx(np.mean(losses), rel=1e-4)
    assert history["val_loss"] == [wanted, wanted]
    assert history["val_block_1_loss"][0] == pytest.approx(losses[1], rel=1e-4)


def test_masking_noise_and_schedules():
    noise = MaskingNoise(mask_token=9, epsilon=1e-3)
    probability = np.linspace(0, 1, 11)
    levels = noise.quantile(probability)
    np.testing.assert_allclose(noise.cdf(levels), probability, atol=1e-12)
    assert (levels[0], levels[-1]) == (noise.minimum, noise.maximum)
    clean = np.tile(np.arange(9), (3, 400))
    level = np.float32([0.1, 0.5, 0.9])
    noisy = noise.corrupt(
        ops.convert_to_tensor(clean),
        ops.convert_to_tensor(level),
        Stream(0, "noise"),
        rows_of(3),
        step=0,
    )
    noisy = numpy(noisy)
    masked = noisy == 9
    np.testing.assert_allclose(masked.mean(1), level, atol=0.04)
    np.testing.assert_array_equal(noisy[~masked], clean[~masked])
    # The derivative is that of alpha, by differences.
    t, step = np.linspace(0.1, 0.9, 9), 1e-6
    for name in ("linear", "poly2", "poly11", "cosine"):
        schedule = MaskingSchedule(name)
        slope = schedule.alpha(t + step) - schedule.alpha(t - step)
        wanted = schedule.derivative(t)
        np.testing.assert_allclose(slope / (2 * step), wanted, atol=1e-6)
    for name in ("sine", "poly", "poly0", "poly-1", "2", None):
        refused(lambda name=name: MaskingSchedule(name), repr(name))


def test_only_the_active_block_moves():
    model = make()
    model.compile("adamw", block_order=1)
    before = [values(block.variables) for block in model.blocks]
    optimizers = model.optimizer.parts
    states = [values(optimizer.variables) for optimizer in optimizers]
    model.fit(data(), batch_size=8, verbose=0)
    kept = {id(v) for v in model.blocks[1].variables}
    for i in (0, 2):
        for v, value in zip(model.blocks[i].variables, before[i], strict=True):
            if id(v) not in kept:
                np.testing.assert_array_equal(numpy(v), value)
        assert equal(values(optimizers[i].variables), states[i])
    assert not equal(values(model.blocks[1].variables), before[1])


@pytest.mark.eager
def test_one_block_alone_is_one_block_together():
    """The two ways to train, with averages."""
    sizes = {"num_blocks": 1, "num_layers": 1}
    together, apart = make(**sizes), make(**sizes).block(0)
    keras.utils.set_random_seed(0)  # built like `apart`
    together.build()
    for model in (together, apart):
        model.compile(keras.optimizers.AdamW(1e-2, epsilon=1e-3))
        model.fit(data(), batch_size=8, epochs=2, verbose=0)
    moved = 0
    for ours, theirs, first in zip(
        together.blocks[0].weights,
        apart.weights,
        make(**sizes).block(0).weights,
        strict=True,
    ):
        if ours.path.endswith("epoch_start"):
            continue  # of the whole model, or of the block
        np.testing.assert_allclose(
            numpy(ours), numpy(theirs), atol=2e-5, err_msg=ours.path
        )
        moved += not np.array_equal(numpy(ours), numpy(first))
    assert moved > 15


@pytest.mark.eager
@pytest.mark.parametrize("sharing, tied", [("all", True), ("targets", False)])
def test_saved_whole_and_in_blocks(tmp_path, sharing, tied):
    options = {"hand_over": "signal", "schedule": "poly2"}
    model = randomize(make(sharing=sharing, tied=tied, **options))
    text, level = np.full((3, 6), MASK, "int32"), np.float32([0.2, 0.5, 0.9])
    text[:, 2] = 1
    wanted = model.denoise(text, level)
    model.save(tmp_path / "mdm.keras")
    paths = [tmp_path / f"{i}.keras" for i in range(3)]
    for block, path in zip(model.blocks, paths, strict=True):
        block.save(path)
    loaded = keras.saving.load_model(tmp_path / "mdm.keras")
    assert (loaded.schedule, loaded.sampler.schedule) == ("poly2",) * 2
    assert loaded.sampler.get_config() == model.sampler.get_config()
    for again in (loaded, MDM.from_blocks(paths)):
        np.testing.assert_allclose(
            again.denoise(text, level), wanted, atol=1e-6
        )
    assert np.abs(wanted[0] - wanted[2]).max() > 0.01
    alone = keras.saving.load_model(paths[1])
    logits = alone.denoise(*map(ops.convert_to_tensor, (text[1:2], level[1:2])))
    np.testing.assert_allclose(numpy(logits), wanted[1:2], atol=1e-6)


@pytest.mark.eager
def test_averages_are_used():
    model = randomize(make(ema_momentum=0.9, hand_over="signal"))
    text, keywords = data(8), {"num_steps": 6, "temperature": 0.0}
    made, bound = model.generate(4, **keywords), model.evaluate(text)
    for average in (b.average for b in model.blocks):
        average.update()
    model.blocks[0].shared_average.update()
    for variable in model.trainable_variables:
        variable.assign(0.0 * variable)
    np.testing.assert_array_equal(model.generate(4, **keywords), made)
    np.testing.assert_allclose(model.evaluate(text), bound, rtol=1e-5)
    logits = model.denoise(text, np.full(8, 0.5))  # the weights themselves
    assert not logits.any()


def test_tied_output_reads_the_embedding():
    tied, own = (
        randomize(make(tied=tied, hand_over="signal")) for tied in (True, False)
    )
    block = tied.blocks[0]
    assert block.head.embedding is block.stem.embedding
    assert own.count_params() > tied.count_params()
    rows = block.stem.embedding.embeddings
    assert tuple(rows.shape) == (MASK + 1, SIZES["hidden_dim"])
    text, level = data(2), np.full(2, 0.5)
    before = tied.denoise(text, level)
    value = np.array(numpy(rows))
    value[1] = 0.0  # of the tokens below, only the output knows this one
    rows.assign(value)
    text[:] = MASK
    assert tied.denoise(text, level).shape == before.shape == (2, 6, 3)
    assert not tied.denoise(text, level)[..., 1].any()
    assert own.denoise(text, level)[..., 1].all()


@pytest.mark.eager
def test_mixed_precision():
    sizes = {"num_blocks": 1, "num_layers": 1, "tied": True}
    model = randomize(make(dtype="mixed_bfloat16", **sizes), 0.1)
    model.compile(keras.optimizers.AdamW(1e-2))
    text, level = data(4), np.full(4, 0.7)
    logits = model.denoise(text, level)
    wanted = randomize(make(**sizes), 0.1).denoise(text, level)
    np.testing.assert_allclose(logits, wanted, atol=0.05)
    assert logits.dtype == "float32" and np.ptp(wanted) > 0.5
    history = model.fit(data(), epochs=60, verbose=0).history["loss"]
    assert np.mean(history[-10:]) < np.mean(history[:10]) - 0.1
    # No bound lies below the text's entropy, log2(3) / 6 bits.
    assert np.log2(3) / 6 < model.evaluate(data())[0] < 1.8
    assert (model.generate(2, num_steps=6) < MASK).all()


def test_end_to_end_and_presets():
    twin = MDM.end_to_end(**SIZES)
    assert isinstance(twin, MDM) and twin.num_blocks == 1
    assert len(twin.block(0).residual_layers) == SIZES["num_layers"]
    assert twin.partition.noise_range(0) == pytest.approx((1e-4, 0.9999))
    for name in MDM.presets:
        assert MDM.from_preset(name).num_blocks == 3
    model = MDM.from_preset("mdm_demo", **{**SIZES, "seed": 4})
    assert (model.seed, model.hidden_dim) == (4, SIZES["hidden_dim"])


CONSTRUCTOR = {
    "heads": ({"num_heads": 5}, "num_heads=5 for hidden_dim=16"),
    "width": ({"hidden_dim": 0}, "hidden_dim=0"),
    "vocabulary": ({"vocabulary_size": 1}, "vocabulary_size=1"),
    "length": ({"sequence_length": 0}, "sequence_length=0"),
    "dropout": ({"dropout": 2.0}, "dropout=2.0"),
    "momentum": ({"ema_momentum": 1.5}, "ema_momentum=1.5"),
    "schedule": ({"schedule": "sigmoid"}, "schedule='sigmoid'"),
    "weighting": ({"loss_weighting": "edm"}, "loss_weighting='edm'"),
}


@pytest.mark.parametrize("name", CONSTRUCTOR)
def test_constructor_refuses(name):
    kwargs, match = CONSTRUCTOR[name]
    refused(lambda: make(**kwargs), match)


def test_fit_and_evaluate_refuse():
    text = data()
    model = make()
    model.compile()
    model.block(0).compile()
    cases = {
        "mask token": (text + 1, None, "1 to 3"),
        "negative": (text - 1, None, "-1 to 1"),
        "length": (text[:, :5], None, r"\(24, 5\)"),
        "one row": (text.reshape(-1), None, r"\(144,\)"),
        "floats": (text / 2, None, "float64"),
        "targets": (text, text, "y"),
    }
    before = state(model)
    for x, y, match in cases.values():
        for act in (model.fit, model.block(0).fit, model.evaluate):
            refused(lambda a=act, x=x, y=y: a(x, y, verbose=0), match)
        if y is None:
            refused(lambda x=x: model.fit(text, validation_data=x), match)
    refused(
        lambda: model.fit(
            (pair for pair in [(text, text)]), steps_per_epoch=1, verbose=0
        ),
        "Received: y",
    )
    refused(lambda: model.fit(text[:0], verbose=0), "length")
    refused(lambda: model.evaluate(text[:0]), "none")
    refused(lambda: model.evaluate(text, num_draws=0), "num_draws=0")
    refused(lambda: model.evaluate(text, num_draw=2), "num_draw")
    refused(lambda: model.predict(text), "`predict`")
    assert equal(state(model), before)
