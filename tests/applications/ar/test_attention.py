"""Two streams compute what attention masked to `2 T x 2 T` does."""

import keras
import numpy as np
import pytest
from keras import ops

from helpers.gradients import gradients
from helpers.small_ar import data, make, randomize
from keras_dblocks.applications.text import llama
from keras_dblocks.applications.text.causal_attention import CausalAttention
from keras_dblocks.applications.text.llama import LlamaLayer

BAR = 1e-5  # of the issue

numpy = ops.convert_to_numpy

# B batch, T slots, D width, H heads, d = D / H


def noisy_then_clean(count):
    """Who may attend whom, as in block diffusion with blocks of one token."""
    before = np.tri(count, k=-1, dtype=bool)
    itself = np.eye(count, dtype=bool)
    nobody = np.zeros_like(itself)
    return np.block([[itself, before], [nobody, before | itself]])


def clean_then_noisy(slots):
    """The same of our slots: clean 0 to T - 1 and noisy 1 to T."""
    count = slots + 1
    kept = [*range(count, 2 * count - 1), *range(1, count)]
    return noisy_then_clean(count)[np.ix_(kept, kept)]


@pytest.mark.quick
@pytest.mark.once
def test_masks_are_the_references(golden):
    reference = golden("ar")
    count = reference["config"]["n"]
    mask = noisy_then_clean(count)
    wanted = reference["mask_block1_noisy_clean"]
    np.testing.assert_array_equal(mask, wanted)
    swapped = [*range(count, 2 * count), *range(count)]
    wanted = reference["mask_block1_clean_noisy"]
    np.testing.assert_array_equal(mask[np.ix_(swapped, swapped)], wanted)


def masked_attention(layer, x):
    """The obvious way: `(B, 2, T, D)` as 2 T tokens, and a mask."""
    slots, dim = x.shape[2:]
    heads, shared = layer.num_heads, layer.num_key_value_heads
    x = ops.reshape(x, (-1, 2 * slots, dim))

    def split(dense, heads):
        y = ops.matmul(x, ops.convert_to_tensor(dense.kernel))
        return ops.reshape(y, (-1, 2 * slots, heads, dim // layer.num_heads))

    places = np.concatenate([np.arange(slots), 1 + np.arange(slots)])
    query = turned(split(layer.query_dense, heads), places)
    key = turned(split(layer.key_dense, shared), places)
    value = split(layer.value_dense, shared)
    whose = np.arange(heads) // (heads // shared)
    key, value = (ops.take(t, whose, axis=2) for t in (key, value))
    scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
    scores = scores / (dim // heads) ** 0.5
    mask = ops.convert_to_tensor(clean_then_noisy(slots))
    weights = ops.softmax(ops.where(mask, scores, -1e30), axis=-1)
    result = ops.einsum("bhqk,bkhd->bqhd", weights, value)
    return ops.reshape(result, (-1, 2, slots, dim))


def turned(x, places):
    """Rotary positions by the formula, `x cos + rotate_half(x) sin`."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** -(np.arange(half) / half)
    angles = np.tile(places[:, None] * rates, 2)[:, None]  # (2 T, 1, d)
    cos, sin = (
        ops.convert_to_tensor(f(angles).astype("float32"))
        for f in (np.cos, np.sin)
    )
    swapped = ops.concatenate([-x[..., half:], x[..., :half]], -1)
    return x * cos + swapped * sin


def masked_layer(layer, x, noise):
    """`LlamaLayer` on the masked attention, every step written out."""
    maps = layer.modulation.dense(ops.silu(noise))  # (B, 2, 6 D)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
        ops.split(maps[:, :, None], 6, -1)
    )  # fmt: skip

    def norm(x, layer):
        size = ops.mean(x**2, -1, keepdims=True) + 1e-6
        return x / ops.sqrt(size) * ops.convert_to_tensor(layer.gamma)

    h = norm(x, layer.attention_norm) * (1 + scale_a) + shift_a
    h = layer.attention_output(masked_attention(layer.attention, h))
    x = x + gate_a * h
    h = norm(x, layer.mlp_norm) * (1 + scale_m) + shift_m
    h = layer.down(ops.silu(layer.gate(h)) * layer.up(h))
    return x + gate_m * h


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def check_same(ours, oracle, inputs, layer, shape=None):
    """Equal outputs, and equal gradients of a sum of them.

    Args:
        ours, oracle: functions of the inputs to `(B, S, T, D)`.
        inputs: list of arrays. They get gradients too.
        layer: whose weights both use.
        shape: of the outputs; that of the first input by default.
    """
    inputs = [keras.Variable(array) for array in inputs]
    # The outputs are the gradient of their weights in the sum.
    shape = shape or inputs[0].shape
    weights = keras.Variable(normal(*shape, seed=9), name="outputs")
    variables = [weights, *inputs, *layer.trainable_variables]

    def total(function):
        arguments = [1.0 * v for v in inputs]  # tensors
        return ops.sum(weights * function(*arguments))

    found, wanted = (
        gradients(lambda f=f: total(f), variables) for f in (ours, oracle)
    )
    assert np.abs(wanted[0]).max() > 0.5
    assert check_close(found, wanted, variables) == len(variables)


def check_close(found, wanted, variables):
    """Each to a share of its largest; how many are not zero."""
    count = 0
    for ours, want, variable in zip(found, wanted, variables, strict=True):
        size = np.abs(want).max()
        np.testing.assert_allclose(
            ours, want, atol=BAR * size, rtol=0, err_msg=variable.path
        )
        count += size > 1e-4
    return count


@pytest.mark.parametrize("key_value_heads", [None, 2, 1])
def test_attention(key_value_heads):
    layer = CausalAttention(4, key_value_heads)
    x = normal(2, 2, 9, 16)
    layer.build(x.shape)
    check_same(
        lambda x: layer(x)[0],
        lambda x: masked_attention(layer, x),
        [x],
        layer,
    )


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_layer(training, last_only):
    layer = LlamaLayer(4, 24, num_key_value_heads=2, last_only=last_only)
    x, noise = normal(2, 2, 9, 16), normal(2, 2, 8, seed=1)
    layer.build(x.shape, noise.shape)
    randomize(layer)
    first = 1 if last_only else 0
    check_same(
        lambda x, noise: layer(x, noise=noise, training=training),
        lambda x, noise: masked_layer(layer, x, noise)[:, first:],
        [x, noise],
        layer,
        (2, 2 - first, 9, 16),
    )


class MaskedAttention(CausalAttention):
    def call(self, x, cache=None, index=0, last_only=False):
        result = masked_attention(self, x)
        return result[:, 1:] if last_only else result, cache


def test_step_of_a_block(monkeypatch):
    """Loss and all gradients, through stem, layers, readout and head."""
    kwargs = {"num_layers": 2, "num_blocks": 1, "num_key_value_heads": 1}
    kwargs |= {"reference": True}
    ours = randomize(make(**kwargs)).block(0)
    monkeypatch.setattr(llama, "CausalAttention", MaskedAttention)
    oracle = randomize(make(**kwargs)).block(0)
    kinds = [
        {type(layer.attention) for layer in block.residual_layers}
        for block in (ours, oracle)
    ]
    assert kinds == [{CausalAttention}, {MaskedAttention}]
    grads = []
    for block in (ours, oracle):
        # The loss is the gradient of its factor.
        factor = keras.Variable(1.0, name="loss")
        variables = [factor, *block.trainable_variables]
        loss = gradients(
            lambda block=block, factor=factor: (
                factor * block.denoising_loss(data(4), None)
            ),
            variables,
        )
        grads.append(loss)
    # The loss is about 96, where numbers of float32 are 8e-6 apart.
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6, abs=BAR)
    assert grads[0][0] > 0.5
    assert check_close(*grads, variables) > 25
