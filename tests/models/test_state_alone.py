"""The state alone is handed over: each call runs the earlier blocks too."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers import small_mdm, small_systems
from helpers.small_mlp import data, equal, refused, three_blocks, values
from keras_dblocks.applications import ARTransformer
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.layers.moving_average import averaged
from keras_dblocks.training.trainable_block import hand_over

ALONE = {"hand_over": "state_alone", "sharing": "targets"}
numpy = ops.convert_to_numpy


def reading(model, scale=0.3):
    """A model whose blocks read the state that they are handed."""
    if not model.built:
        model.build()
    rng = np.random.default_rng(3)
    for block in model.blocks:
        kernel = block.state_input.projection.kernel
        kernel.assign(scale * rng.normal(size=kernel.shape))
    return model


def tensors(arrays):
    return tuple(map(ops.convert_to_tensor, arrays))


def test_a_step_is_handed_what_a_call_hands_on():
    """Training and inference run the earlier blocks on the same signal."""
    model = reading(three_blocks(**ALONE))
    x, y = tensors(data(16))
    rows = ops.arange(16, dtype="int32")
    for index in range(3):
        noisy, level, last = hand_over(
            model.blocks, index, (x, y, None), 1.0, rows
        )
        assert (numpy(model.partition.block_of(numpy(level))) == index).all()
        run = loop.running(model.blocks, index)
        assert run == model.blocks[: index + 1]
        (wanted,) = loop.handed_to(run, noisy, level, x)
        np.testing.assert_allclose(numpy(last), numpy(wanted), atol=1e-6)
        assert (np.abs(numpy(last)).max() > 0.01) == (index > 0)
    with_state = loop.denoise(run, noisy, level, x)
    ours = model.denoise(noisy, numpy(level), x)
    np.testing.assert_allclose(numpy(ours), numpy(with_state), atol=1e-6)
    without = run[-1].denoise(noisy, level, x)
    assert np.abs(numpy(with_state - without)).max() > 1e-3


def test_in_training_a_block_sees_all_levels_that_later_ones_run_it_at():
    model = three_blocks(**ALONE)
    x, y = tensors(data(256))
    noise = model.noise
    for block in model.blocks:
        (_, level, _), _ = block.begin_hand_over((x, y, None), 1.0, ())
        shares = noise.cdf(numpy(level))
        upper = block.range_bounds(overlap=True)[1]
        assert shares.max() <= upper + 1e-4
        # Evenly spread from the lowest level to the block's upper edge.
        even = np.linspace(0, upper, 256)
        np.testing.assert_allclose(np.sort(shares), even, atol=0.02)


def test_masks_are_the_data_s_own():
    """What is handed over was made of nothing but what is not masked."""
    model = reading(small_mdm.make())
    text = small_mdm.data(32)
    rows = ops.arange(32, dtype="int32")
    noisy, level, _ = hand_over(
        model.blocks, 1, (ops.convert_to_tensor(text), None, None), 1.0, rows
    )
    noisy = numpy(noisy)
    assert ((noisy == text) | (noisy == small_mdm.MASK)).all()
    assert 0.5 < (noisy == small_mdm.MASK).mean() < 0.9
    assert 0.6 < numpy(level).min() and numpy(level).max() < 0.8


def test_fit_trains_one_block_after_the_other(tmp_path):
    x, y = data(48)
    model = three_blocks(**ALONE)
    model.compile(keras.optimizers.Adam(0.02), curriculum="equal_parts")
    assert model.on_policy == 1.0  # of the class's own 1.0
    before = [values(block.trainable_variables) for block in model.blocks]
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert [int(count) for count in model.step_counts()] == [4, 4, 4]
    assert not any(
        equal(values(block.trainable_variables), old)
        for block, old in zip(model.blocks, before, strict=True)
    )
    for block in model.blocks[1:]:
        assert np.abs(values([block.state_input.projection.kernel])).max() > 0
    logits = model.predict(x, verbose=0)
    assert np.isfinite(model.evaluate(x, y, verbose=0)).all()
    paths = [tmp_path / f"{index}.keras" for index in range(3)]
    for index, path in enumerate(paths):
        model.block(index).save(path)
    again = type(model).from_blocks(paths)
    np.testing.assert_allclose(again.predict(x, verbose=0), logits, atol=1e-6)
    refused(lambda: type(model).predict_from_blocks(paths, x), "from_blocks")
    refused(
        lambda: three_blocks(hand_over="signal").load_block(paths[1]),
        "hand_over",
    )


@pytest.mark.heavy
def test_averages_are_handed_over_as_at_inference():
    model = small_mdm.make(ema_momentum=0.99)
    model.compile(keras.optimizers.Adam(0.02))
    text = small_mdm.data(64)
    model.fit(text, batch_size=16, epochs=6, verbose=0)
    noisy, level = text.copy(), np.full(64, 0.5, "float32")
    noisy[:, ::2] = small_mdm.MASK
    noisy, level = tensors((noisy, level))
    first, second = model.blocks[:2]
    (nothing,) = second.nothing_handed(64)
    *_, passed = first.pass_on((noisy, level, nothing), None, ())
    run = loop.running(model.blocks, 1)
    with averaged(run):
        (wanted,) = loop.handed_to(run, noisy, level)
    np.testing.assert_allclose(numpy(passed), numpy(wanted), atol=1e-5)
    (raw,) = loop.handed_to(run, noisy, level)
    assert np.abs(numpy(passed - raw)).max() > 1e-4


@pytest.mark.eager
def test_the_bound_and_samples_run_the_earlier_blocks():
    model = reading(small_mdm.make(), scale=1.0)
    text = small_mdm.data(32)
    first = model.evaluate(text, return_dict=True)
    made = model.generate(5, num_steps=6, batch_size=5)
    layer = model.blocks[0].residual_layers[0]
    for variable in layer.trainable_variables:  # of block 0 alone
        variable.assign(variable + 0.3)
    second = model.evaluate(text, return_dict=True)
    for index in range(3):
        name = f"block_{index}_bits_per_token"
        assert abs(first[name] - second[name]) > 1e-4
    assert (model.generate(5, num_steps=6, batch_size=5) != made).any()


@pytest.mark.eager
def test_guided_samples():
    model = reading(small_systems.make("dit", **ALONE))
    _, labels = small_systems.data("dit", 3)
    given = {"num_steps": 3, "guidance_scale": 2.0}
    whole = model.generate(labels, **given)
    parts = model.generate(labels, batch_size=2, **given)
    np.testing.assert_allclose(whole, parts, atol=1e-3)
    plain = model.generate(labels, num_steps=3)
    assert np.abs(whole - plain).max() > 1e-3


def test_defaults_and_refusals():
    model = small_mdm.make()
    assert (model.hand_over, model.sharing) == ("state_alone", "targets")
    assert model.partition.kind == "mostly_last"
    assert model.default_on_policy == 1.0
    alone = small_mdm.make(hand_over="signal")
    assert (alone.sharing, alone.default_on_policy) == ("all", 0.0)
    assert alone.partition.kind == "equal_probability"
    assert alone.default_curriculum == "common_start"
    paper = small_mdm.make(reference=True)
    assert (paper.hand_over, paper.sharing) == ("signal", "all")
    assert paper.partition.kind == "equal_probability"
    assert (paper.default_on_policy, paper.default_curriculum) == (
        0.0,
        "sampled",
    )
    twin = model.layer_matched()
    twin.build()
    assert twin.blocks[0].state_input is None
    refused(lambda: alone.compile(on_policy=0.5), "on_policy=0.5")
    refused(
        lambda: ARTransformer(11, 8, hand_over="state_alone"), "ARTransformer"
    )
