"""Our Huginn with the reference's weights gives the reference's figures."""

import math

import numpy as np
import pytest
from keras import ops
from scipy import integrate, stats

from helpers.small_vit import equal, refused, values
from keras_dblocks.applications.recurrent_depth.huginn import iterations
from keras_dblocks.applications.recurrent_depth.huginn.model import Huginn
from keras_dblocks.applications.recurrent_depth.huginn.published import (
    load_reference_weights,
)

FORWARD = 2e-5  # float32: tests/golden/README.md#recurrentnpz

numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def reference(golden):
    return golden("recurrent")


@pytest.fixture(scope="module")
def twin(reference):
    return twin_of(reference)


def weights_of(reference):
    return {k[2:]: v for k, v in reference.items() if k.startswith("w/")}


def twin_of(reference):
    sizes = reference["config"]
    twin = Huginn(
        vocabulary_size=sizes["vocab_size"],
        sequence_length=sizes["block_size"],
        prelude_layers=sizes["n_layers_in_prelude"],
        core_layers=sizes["n_layers_in_recurrent_block"],
        coda_layers=sizes["n_layers_in_coda"],
        hidden_dim=sizes["n_embd"],
        num_heads=sizes["n_heads"],
        intermediate_dim=sizes["intermediate_size"],
        mean_recurrence=sizes["mean_recurrence"],
        backprop_depth=sizes["mean_backprop_depth"],
    )
    load_reference_weights(twin, weights_of(reference))
    return twin


def close(result, wanted):
    np.testing.assert_allclose(numpy(result), wanted, atol=FORWARD, rtol=0)


def start_of(reference):
    return ops.convert_to_tensor(reference["initial_state"][:, None])


def test_prelude(reference, twin):
    tokens = reference["input_ids"]
    close(twin.embed(tokens)[:, 0], reference["embedded_scaled"])
    close(twin.context(tokens)[:, 0], reference["prelude_output"])


@pytest.mark.quick
def test_recurrences(reference, twin):
    context = twin.context(reference["input_ids"])
    state = start_of(reference)
    for count in range(1, 5):
        state = twin.iteration(state, context)
        close(state[:, 0], reference[f"r{count}/state"])
        wanted = reference[f"r{count}/latent_after_ln_f"]
        close(twin.norm(state)[:, 0], wanted)
        close(twin.logits(state), reference[f"r{count}/logits"])


@pytest.mark.parametrize("count", [1, 4])
def test_the_loops_do_the_same(reference, twin, count):
    context = twin.context(reference["input_ids"])
    wanted = reference[f"r{count}/state"]
    looped = twin.iterated(start_of(reference), context, count)
    close(looped[:, 0], wanted)
    count = ops.convert_to_tensor(count, dtype="int32")
    unrolled = twin.unrolled(start_of(reference), context, count)
    close(unrolled[:, 0], wanted)


@pytest.mark.once
def test_probabilities_of_iterations(reference):
    pmf = iterations.probabilities(reference["config"]["mean_recurrence"])
    depth = reference["config"]["mean_backprop_depth"]
    np.testing.assert_allclose(pmf.sum(), 1.0, atol=1e-9)
    # The reference's own quadrature is off by up to 9e-8; the next test has a
    # better one.
    wanted = reference["iter/exact_pmf_total"]
    np.testing.assert_allclose(pmf[:256], wanted, atol=1e-7)
    total = np.arange(len(pmf))
    mean = (pmf * total).sum()
    figures = {
        "exact_mean_total": mean,
        "exact_std_total": (pmf * (total - mean) ** 2).sum() ** 0.5,
        "exact_mean_n": (pmf * np.maximum(total - depth, 0)).sum(),
        "exact_mean_k": (pmf * np.minimum(total, depth)).sum(),
        "exact_pmf_n0": pmf[: depth + 1].sum(),
    }
    for name, figure in figures.items():
        np.testing.assert_allclose(figure, reference[f"iter/{name}"], rtol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("mean", [1, 32, 128])
def test_probabilities_against_an_integral(mean):
    pmf = iterations.probabilities(mean)

    def density(normal, count):
        log_rate = math.log(mean) - 0.125 + 0.5 * normal
        rate = math.exp(log_rate)
        return stats.norm.pdf(normal) * stats.poisson.pmf(count - 1, rate)

    for count in (1, 2, mean, 3 * mean, 8 * mean):
        wanted, _ = integrate.quad(
            density, -9, 9, count, epsabs=1e-12, limit=200
        )
        np.testing.assert_allclose(pmf[count], wanted, atol=1e-10)


@pytest.mark.heavy
def test_drawn_iterations(reference, twin):
    count = 2000
    drawn = np.array([int(twin.draw_iterations()) for _ in range(count)])
    depth = reference["config"]["mean_backprop_depth"]
    assert drawn.min() >= 1
    error = reference["iter/exact_std_total"] / count**0.5
    mean = reference["iter/exact_mean_total"]
    assert abs(drawn.mean() - mean) < 4 * error
    mean = reference["iter/exact_mean_n"]
    assert abs(np.maximum(drawn - depth, 0).mean() - mean) < 4 * error
    # Against the reference's own draws: Kolmogorov-Smirnov, far in the tail.
    share = np.cumsum(reference["iter/hist_total"])
    share = share / share[-1]
    ours = np.cumsum(np.bincount(drawn, minlength=256)[:256]) / count
    assert np.abs(ours - share).max() < 2.0 / count**0.5


def test_tokens_come_with_the_weights_and_the_beginning_does_not(reference):
    twin, arrays = twin_of(reference), weights_of(reference)
    size = reference["config"]["vocab_size"]
    table = twin.embedding.embeddings
    before = numpy(table).copy()
    ones = np.ones((size, before.shape[1]), "float32")
    arrays |= {"transformer.wte.weight": ones, "lm_head.weight": ones}
    load_reference_weights(twin, arrays)
    np.testing.assert_array_equal(numpy(table)[size:], before[size:])
    np.testing.assert_array_equal(numpy(table)[:size], 1.0)


def test_wrong_weights_leave_the_model_untouched(reference):
    twin, arrays = twin_of(reference), weights_of(reference)
    before = values(twin.weights)
    table, head = "transformer.wte.weight", "lm_head.weight"
    qkv = "transformer.core_block.1.attn.Wqkv.weight"
    bias = "transformer.coda.0.attn.qk_bias"
    cases = [
        ({"transformer.coda.0.mlp.fc.weight": None}, "must hold"),
        ({table: None, head: None}, "must hold 'transformer.wte.weight'"),
        ({"transformer.ln_f.weight": np.zeros(3)}, r"Received: \(3,\)"),
        ({head: arrays[head] + 1}, "the head is tied"),
        ({qkv: arrays[qkv][:24]}, "must have shape"),
        ({bias: arrays[bias][:1]}, "must have shape"),
        ({table: arrays[table][:-1], head: arrays[head][:-1]}, "must have"),
    ]
    for changes, match in cases:
        wrong = {**arrays, **changes}
        wrong = {k: v for k, v in wrong.items() if v is not None}
        refused(lambda wrong=wrong: load_reference_weights(twin, wrong), match)
    refused(lambda: load_reference_weights(object(), arrays), "end_to_end")
    assert equal(values(twin.weights), before)
