"""Masked diffusion gives MD4's figures: schedules, bound, sampling, rotary."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_mdm import exact_bound, expected_loss, integral, losses
from keras_dblocks.applications.mdm import MDM
from keras_dblocks.diffusion.masking import MaskingNoise, MaskingSchedule
from keras_dblocks.diffusion.partition import Partition
from keras_dblocks.diffusion.samplers import loop
from keras_dblocks.layers.rotary import rotate
from keras_dblocks.samplers import UnmaskingSampler

FLOAT32 = 1e-4  # the bar of the issue, where figures pass our layers
LN2 = np.log(2.0)


@pytest.fixture(scope="module")
def mdm(golden):
    return golden("mdm")


def schedules(mdm):
    """The reference's schedules by name."""
    config = mdm["config"]
    return {s: MaskingSchedule(s, config["eps"]) for s in config["schedules"]}


class Tokens(keras.layers.Layer):
    """A stem that hands the tokens on."""

    def __init__(self):
        super().__init__(autocast=False)

    def call(self, tokens):
        return tokens


class Formula(keras.layers.Layer):
    """The one layer of block `index`: logits from noisy tokens `(B, T)`."""

    def __init__(self, formula, index):
        super().__init__()
        self.formula = formula
        self.index = index

    def call(self, tokens, noise):
        return self.formula(self.index, tokens)


class Denoiser(MDM):
    """Masked diffusion whose block `i` computes `formula(i, tokens)`."""

    keeps_shape = False  # from tokens to logits

    def __init__(self, formula, **kwargs):
        layers = {"num_layers": kwargs["num_blocks"], "hidden_dim": 4}
        # The reference's blocks know nothing of each other.
        alone = {"hand_over": "signal", "ema_momentum": None}
        super().__init__(num_heads=1, **alone, **layers, **kwargs)
        self.formula = formula

    def make_stem(self):
        return Tokens()

    def make_layer(self, index):
        return Formula(self.formula, index)

    def make_noise_embedding(self):
        return keras.layers.Identity(autocast=False)

    def make_readout(self):
        return keras.layers.Identity()

    def make_head(self):
        return keras.layers.Identity()


def table_model(logits):
    """Blocks that look their logits up: `(B, T, V)`."""
    num_blocks, length, size = logits.shape
    logits = logits.astype("float32")

    def look_up(index, tokens):
        zeros = ops.cast(0 * tokens, "float32")
        table = ops.convert_to_tensor(logits[index])
        return table + ops.expand_dims(zeros, -1)

    return Denoiser(
        look_up,
        vocabulary_size=size,
        sequence_length=length,
        num_blocks=num_blocks,
    )


def context_model(mdm, blocks):
    """Blocks that look at both neighbours, with the tables of `blocks`."""
    tables = [
        mdm[f"ctx/{name}"].astype("float32") for name in ("P", "Wl", "Wr")
    ]
    _, length, size = tables[0].shape
    blocks = list(blocks)

    def look_around(index, tokens):
        here, left, right = (
            ops.convert_to_tensor(t[blocks[index]]) for t in tables
        )
        outside = ops.full_like(tokens[:, :1], size)
        before = ops.concatenate([outside, tokens[:, :-1]], 1)
        after = ops.concatenate([tokens[:, 1:], outside], 1)
        return here + ops.take(left, before, 0) + ops.take(right, after, 0)

    return Denoiser(
        look_around,
        vocabulary_size=size,
        sequence_length=length,
        num_blocks=len(blocks),
    )


@pytest.mark.quick
@pytest.mark.once
def test_schedules(mdm):
    t = mdm["t"]
    for name, schedule in schedules(mdm).items():
        alpha, slope = schedule.alpha(t), schedule.derivative(t)
        wanted = mdm[f"{name}/alpha"]
        np.testing.assert_allclose(alpha, wanted, rtol=1e-9)
        np.testing.assert_allclose(slope, mdm[f"{name}/dalpha"], atol=1e-9)
        wanted = mdm[f"{name}/dgamma_times_alpha"]
        np.testing.assert_allclose(slope / (1.0 - alpha), wanted, rtol=1e-9)
        np.testing.assert_allclose(schedule.time(alpha), t, atol=1e-4)
        inner = (0.05 < t) & (t < 0.95)
        there = schedule.time(alpha[inner])
        np.testing.assert_allclose(there, t[inner], atol=1e-9)


@pytest.mark.once
def test_boundaries_are_equal_decrements_of_alpha(mdm):
    noise = MaskingNoise(mdm["config"]["V"], mdm["config"]["eps"])
    for blocks in mdm["config"]["Bs"]:
        partition = Partition(noise, blocks, blocks)
        widths = np.diff(partition.boundaries)
        np.testing.assert_allclose(widths, widths[0], rtol=1e-12)
        for name, schedule in schedules(mdm).items():
            times = schedule.time(1.0 - partition.boundaries)
            wanted = mdm[f"{name}/t_boundaries_B{blocks}"]
            np.testing.assert_allclose(times, wanted, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*never call blocks")
def test_sampling_grids_and_routes(mdm):
    config = mdm["config"]
    noise = MaskingNoise(config["V"], config["eps"])
    steps = config["sampling_steps"]
    for name in schedules(mdm):  # the reference's epsilon is the default
        for grid in ("cosine", "uniform"):
            reference = f"sampling/{name}/{grid}_n{steps}"
            sampler = UnmaskingSampler(
                steps, grid, name, mask_token=config["V"]
            )
            times = sampler.times(steps)
            np.testing.assert_allclose(
                times[:-1], mdm[f"{reference}/t"], atol=1e-6
            )
            np.testing.assert_allclose(
                times[1:], mdm[f"{reference}/s"], atol=1e-6
            )
            for blocks in config["Bs"]:
                visits = loop.plan(sampler, Partition(noise, blocks, blocks))
                level, reveal = (
                    [value for visit in visits for value in visit.calls[key]]
                    for key in ("level", "reveal")
                )
                route = [v.block for v in visits for _ in v.calls["level"]]
                wanted = mdm[f"{reference}/route_B{blocks}"]
                np.testing.assert_array_equal(route, wanted)
                alpha = mdm[f"{reference}/alpha_t"]
                np.testing.assert_allclose(level, 1.0 - alpha, atol=1e-6)
                wanted = mdm[f"{reference}/p_unmask"]
                np.testing.assert_allclose(reveal[:-1], wanted[:-1], atol=1e-6)
                # The reference leaves what epsilon leaves; we leave nothing.
                assert wanted[-1] < reveal[-1] == 1.0


def test_reconstruction(mdm):
    noise = MaskingNoise(mdm["config"]["V"], mdm["config"]["eps"])
    for part, size in (("table", "V"), ("ctx", "ctx_V")):
        bits = noise.minimum * np.log2(mdm["config"][size])
        np.testing.assert_allclose(bits, mdm[f"{part}/recon_bpc"], rtol=1e-6)


def table_bound(model, tokens):
    """Bits per token `(B, N)`: the table's losses at the places add up."""
    single = np.eye(tokens.shape[1], dtype=bool)
    edges = model.partition.boundaries
    nats = [
        integral(
            lambda m: m * losses(model, tokens, single, m).sum(1), *ends, 2
        )
        for ends in zip(edges[:-1], edges[1:], strict=True)
    ]
    return np.array(nats[::-1]) / LN2


@pytest.mark.quick
def test_bound_of_a_table(mdm):
    tokens, logits = mdm["table/tokens"], mdm["table/logits"]
    names = mdm["config"]["schedules"]
    rest = mdm["table/recon_bpc"]
    for blocks in mdm["config"]["Bs"]:
        model = table_model(np.stack([logits] * blocks))
        bits = table_bound(model, tokens)
        for name in names:  # the bound does not know of a schedule
            wanted = mdm[f"table/{name}/block_bpc_B{blocks}"]
            np.testing.assert_allclose(bits.mean(1), wanted, atol=FLOAT32)
            wanted = mdm[f"table/{name}/diffusion_bpc"]
            np.testing.assert_allclose(bits.sum(0).mean(), wanted, atol=FLOAT32)
            wanted = mdm[f"table/{name}/total_bpc_per_sequence"]
            np.testing.assert_allclose(bits.sum(0) + rest, wanted, atol=FLOAT32)
    model = table_model(mdm["table/logits_per_block_B3"])
    bits = table_bound(model, tokens).mean(1)
    for name in names:
        wanted = mdm[f"table/{name}/perblocktable_block_bpc_B3"]
        np.testing.assert_allclose(bits, wanted, atol=FLOAT32)
        wanted = mdm[f"table/{name}/perblocktable_total_bpc_B3"]
        np.testing.assert_allclose(bits.sum() + rest, wanted, atol=FLOAT32)
    # All masked at once: the reference's cross-entropies themselves.
    whole = np.ones((1, tokens.shape[1]), bool)
    loss = losses(table_model(logits[None]), tokens, whole, 0.5)[:, 0]
    wanted = mdm["table/ce"].mean(1) / 0.5
    np.testing.assert_allclose(loss, wanted, rtol=FLOAT32)


def test_bound_of_a_context_denoiser(mdm):
    tokens, rest = mdm["ctx/tokens"], mdm["ctx/recon_bpc"]
    whole, single = context_model(mdm, [0, 1, 2]), context_model(mdm, [0] * 3)
    length, size = tokens.shape[1], mdm["config"]["ctx_V"]
    noisy = np.where(mdm["ctx/masks"][:8], size, tokens[0]).astype("int32")
    logits = whole.denoise(noisy, np.full(8, 0.5), block=0)
    np.testing.assert_allclose(logits, mdm["ctx/example_logits"], atol=2e-5)
    for block in range(3):
        sums = losses(whole, tokens, mdm["ctx/masks"], 0.5, block)
        wanted = mdm["ctx/sum_masked_ce"][block] / (0.5 * length)
        np.testing.assert_allclose(sums, wanted, rtol=FLOAT32, atol=1e-6)
    bits = exact_bound(whole, tokens).mean(1)
    copies = exact_bound(single, tokens).mean(1)
    alone = context_model(mdm, [0])
    for name, schedule in schedules(mdm).items():
        wanted = mdm[f"ctx/{name}/block_bpc_B3"]
        np.testing.assert_allclose(bits, wanted, atol=FLOAT32)
        wanted = mdm[f"ctx/{name}/total_bpc_B3"]
        np.testing.assert_allclose(bits.sum() + rest, wanted, atol=FLOAT32)
        wanted = mdm[f"ctx/{name}/single_block_bpc_B3"]
        np.testing.assert_allclose(copies, wanted, atol=FLOAT32)
        wanted = mdm[f"ctx/{name}/single_diffusion_bpc"]
        np.testing.assert_allclose(copies.sum(), wanted, atol=FLOAT32)

        # The same in time, as the reference writes it.
        def rate(t, schedule=schedule):
            mean = expected_loss(alone, tokens, 1.0 - schedule.alpha(t)).mean()
            return -schedule.derivative(t) * mean

        ours = [length * rate(t) for t in mdm["t"]]
        wanted = mdm[f"ctx/{name}/loss_at_t"]
        np.testing.assert_allclose(ours, wanted, rtol=FLOAT32)
        nats = integral(rate, 0.0, 1.0, nodes=24)
        wanted = mdm[f"ctx/{name}/single_diffusion_bpc"]
        np.testing.assert_allclose(nats / LN2, wanted, atol=FLOAT32)


@pytest.mark.parametrize("part", ["table", "ctx"])
def test_evaluate_agrees_within_its_error(mdm, part):
    tokens = mdm[f"{part}/tokens"][:1]
    if part == "table":
        model = table_model(mdm["table/logits_per_block_B3"])
        exact = table_bound(model, tokens)[:, 0]
    else:
        model = context_model(mdm, [0, 1, 2])
        exact = exact_bound(model, tokens)[:, 0]
    # One sequence many times: the error is that of the masks alone.
    many = tokens.repeat(500, 0)
    found = model.evaluate(many, batch_size=500, return_dict=True)
    error = found["standard_error"]
    total = exact.sum() + mdm[f"{part}/recon_bpc"]
    assert 0 < error < 0.02 * total
    assert abs(found["bits_per_token"] - total) < 4 * error
    blocks = [found[f"block_{i}_bits_per_token"] for i in range(3)]
    np.testing.assert_allclose(blocks, exact, atol=4 * error)
    rest = found["reconstruction_bits_per_token"]
    np.testing.assert_allclose(
        sum(blocks) + rest, found["bits_per_token"], rtol=1e-6
    )


def test_rotary(golden):
    rope = golden("rope")
    for name in ("q", "k"):
        x = rope[f"rope/{name}"].swapaxes(0, 1)[None]  # (1, T, H, d)
        turned = rotate(ops.convert_to_tensor(x), rope["config"]["theta"])
        turned = ops.convert_to_numpy(turned)[0].swapaxes(0, 1)
        wanted = rope[f"rope/{name}_rot"]
        np.testing.assert_allclose(turned, wanted, atol=2e-5)
