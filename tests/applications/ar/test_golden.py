"""Our Llama with the reference's weights gives the reference's figures."""

import numpy as np
import pytest
from keras import ops

from helpers.small_ar import nats
from helpers.small_vit import equal, refused, values
from keras_dblocks.applications.ar import ARTransformer, load_reference_weights
from keras_dblocks.applications.ar.reference_weights import layer_pairs
from keras_dblocks.applications.text.llama import LlamaLayer
from keras_dblocks.applications.torch_weights import assign
from keras_dblocks.layers.rotary import rotate

FORWARD = 2e-5  # float32: tests/golden/README.md#arnpz

numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def reference(golden):
    return golden("ar")


def part_of(reference, prefix):
    """Entries below a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in reference.items()
        if key.startswith(prefix)
    }


def make_layer(reference, prefix, **kwargs):
    """`LlamaLayer` with the weights below the prefix."""
    sizes = reference["config"]
    layer = LlamaLayer(sizes["heads"], sizes["intermediate"], **kwargs)
    layer.build((None, 2, None, sizes["hidden"]), (None, 2, 4))
    arrays = part_of(reference, prefix)
    assign(layer_pairs(layer, "it"), {f"it.{k}": v for k, v in arrays.items()})
    return layer


def twin_of(reference):
    sizes = reference["config"]
    twin = ARTransformer.end_to_end(
        vocabulary_size=sizes["vocab"],
        sequence_length=sizes["n"],
        num_layers=sizes["layers"],
        hidden_dim=sizes["hidden"],
        num_heads=sizes["heads"],
        intermediate_dim=sizes["intermediate"],
    )
    load_reference_weights(twin, part_of(reference, "lm/w/"))
    return twin


def test_rotary(reference):
    for name in ("q", "k"):
        x, wanted = (
            reference[key].transpose(1, 0, 2)[None]  # (1, T, H, d)
            for key in (f"rope/{name}", f"rope/{name}_rot")
        )
        x = ops.convert_to_tensor(x)
        np.testing.assert_allclose(numpy(rotate(x)), wanted, atol=FORWARD)
        # From place 3 on: known before it runs, or only then, as in a loop.
        for start in (3, ops.convert_to_tensor(3, dtype="int32")):
            turned = numpy(rotate(x[:, 3:], start=start))
            np.testing.assert_allclose(turned, wanted[:, 3:], atol=FORWARD)
    cos, sin = reference["rope/cos"], reference["rope/sin"]
    half = cos.shape[1] // 2
    first = np.zeros((1, len(cos), 1, 2 * half), "float32")
    first[..., :half] = 1.0  # the real axis of every pair
    wanted = np.concatenate([cos[:, :half], sin[:, half:]], 1)
    turned = numpy(rotate(ops.convert_to_tensor(first)))[0, :, 0]
    np.testing.assert_allclose(turned, wanted, atol=FORWARD)


LAYERS = {
    "plain": {"conditioned": False},
    # Open gates: it starts as Llama's, whatever the level.
    "conditioned": {"conditioned": True, "open_gates": True},
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layer(reference, kind):
    layer = make_layer(reference, "layer/w/", **LAYERS[kind])
    x = reference["layer/input"]
    noise = np.random.default_rng(0).normal(size=(len(x), 2, 4))
    noise = noise.astype("float32")
    wanted = reference["layer/causal_output"]
    result = layer(x[:, None], noise=noise[:, :1])
    np.testing.assert_allclose(numpy(result)[:, 0], wanted, atol=FORWARD)
    normed = layer.attention_norm(x[:, None])
    wanted = reference["layer/input_norm_output"]
    np.testing.assert_allclose(numpy(normed)[:, 0], wanted, atol=FORWARD)
    attended = layer.attention_output(layer.attention(normed)[0])
    wanted = reference["layer/attn_output"]
    np.testing.assert_allclose(numpy(attended)[:, 0], wanted, atol=FORWARD)
    check_two_streams(reference, [layer], "layer", noise)


def test_stack(reference):
    names = range(reference["config"]["layers"])
    layers = [
        make_layer(reference, f"lm/w/model.layers.{i}.", conditioned=False)
        for i in names
    ]
    check_two_streams(reference, layers, "stack")


def check_two_streams(reference, layers, name, noise=None):
    """The layers on both streams give the reference's concatenated run.

    There the halves stand at the same places, and noisy i sees the clean
    ones before i. Our slot i pairs clean i with noisy i + 1; of n tokens, we
    have no noisy 0 (nothing but itself to see) and no clean n - 1 (unseen).
    """
    clean = reference["layer/input"][:, :-1]
    noisy = reference["layer/concat_input_noisy"][:, 1:]
    state = np.stack([clean, noisy], 1)
    for layer in layers:
        state = layer(state, noise=noise)
    clean, noisy = np.moveaxis(numpy(state), 1, 0)
    wanted = reference[f"{name}/concat_output_clean"][:, :-1]
    np.testing.assert_allclose(clean, wanted, atol=FORWARD)
    wanted = reference[f"{name}/concat_output_noisy"][:, 1:]
    np.testing.assert_allclose(noisy, wanted, atol=FORWARD)


@pytest.mark.quick
def test_whole_model(reference):
    twin = twin_of(reference)
    tokens = reference["lm/input_ids"]
    logits = numpy(twin.following(tokens))
    np.testing.assert_allclose(logits, reference["lm/logits"], atol=FORWARD)
    ce = nats(logits[:, :-1], tokens[:, 1:]).mean()
    wanted = reference["lm/next_token_ce_mean"]
    np.testing.assert_allclose(ce, wanted, atol=FORWARD)


def test_tokens_come_with_the_weights_and_the_beginning_does_not(reference):
    twin, arrays = twin_of(reference), part_of(reference, "lm/w/")
    size = reference["config"]["vocab"]
    table = twin.embedding.embeddings
    before = numpy(table).copy()
    arrays["model.embed_tokens.weight"] = np.ones((size, before.shape[1]))
    load_reference_weights(twin, arrays)
    np.testing.assert_array_equal(numpy(table)[size:], before[size:])
    # As the first state they are what the reference has.
    rows = numpy(twin.embed(np.arange(size)[None]))
    np.testing.assert_allclose(rows, 1.0, rtol=1e-6)


def test_wrong_weights_leave_the_model_untouched(reference):
    twin, arrays = twin_of(reference), part_of(reference, "lm/w/")
    before = values(twin.weights)
    table = arrays["model.embed_tokens.weight"]
    cases = {
        "model.layers.1.mlp.up_proj.weight": (None, "must hold"),
        "lm_head.weight": (None, "must hold 'lm_head.weight'"),
        "model.norm.weight": (np.zeros(3), r"Received: \(3,\)"),
        # One row too few or too many, as with a beginning of its own.
        "model.embed_tokens.weight": (table[:-1], "must have shape"),
        "model.layers.0.mlp.down_proj.weight": (np.eye(3), "must have shape"),
    }
    for name, (array, match) in cases.items():
        wrong = {**arrays, name: array}
        if array is None:
            del wrong[name]
        refused(lambda wrong=wrong: load_reference_weights(twin, wrong), match)
    more = {**arrays, "model.embed_tokens.weight": np.repeat(table, 2, 0)}
    refused(lambda: load_reference_weights(twin, more), "must have shape")
    blocks = ARTransformer(vocabulary_size=5, hidden_dim=8, num_heads=1)
    refused(lambda: load_reference_weights(blocks, arrays), "ARTransformer")
    assert equal(values(twin.weights), before)
