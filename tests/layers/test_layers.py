"""Layers: Keras's promises, and the formulas they are there for."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

from helpers.gradients import gradients
from keras_dblocks.layers import (
    LabelEmbedding,
    NoiseEmbedding,
    NoiseModulation,
    PatchEmbedding,
    SelfAttention,
    TransformerLayer,
)

# B batch 3, T tokens 5, D width 6, N width of the noise embedding 4
X, NOISE = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
X, NOISE = X.astype("float32"), NOISE[:, 0, :4].astype("float32")
IMAGES = np.random.default_rng(1).normal(size=(3, 4, 6, 2)).astype("float32")
LABELS = np.int32([2, 0, 3])
LAYERS = {
    "labels": (
        LabelEmbedding,
        (4, 6),
        {"bridge": "unnormalized"},
        [LABELS],
    ),
    "noise": (NoiseEmbedding, (4, 8, 99.0, None), {}, [NOISE[:, 0]]),
    "patches": (PatchEmbedding, (2, 7), {}, [IMAGES]),
    "attention": (SelfAttention, (3, 0.1), {}, [X]),
    "plain": (TransformerLayer, (2, 8, 0.1), {"conditioned": False}, [X]),
    "after": (TransformerLayer, (2, 8, 0.1, 1e-6, "relu"), {}, [X, NOISE]),
    "before": (
        *(TransformerLayer, (3, 8)),
        *({"modulation": "before", "open_gates": True}, [X, NOISE]),
    ),
    "modulation": (
        *(NoiseModulation, (keras.layers.Dense(6, "tanh"),), {}, [X, NOISE]),
    ),
}


def numpy(tensor):
    return np.array(ops.convert_to_numpy(tensor), "float32")


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def made(which, **more):
    """Layer `which`, built, with no weight left at zero; and its inputs."""
    cls, args, kwargs, inputs = LAYERS[which]
    if cls is NoiseModulation:
        dtype = more.get("dtype")
        args = (keras.layers.Dense(6, "tanh", dtype=dtype),)
    layer = cls(*args, **kwargs, **more)
    layer.build(*(array.shape for array in inputs))
    randomize(layer)
    return layer, inputs


def randomize(layer):
    random = np.random.default_rng(2)
    for variable in layer.weights:
        variable.assign(random.normal(size=variable.shape) / 3)


@pytest.mark.parametrize("name", LAYERS)
def test_config_makes_the_same_layer(name):
    layer, inputs = made(name, dtype="mixed_bfloat16", name="its_name")
    config = layer.get_config()
    assert config["name"] == "its_name"
    own = set(inspect.signature(type(layer).__init__).parameters)
    assert own - {"self", "kwargs"} <= set(config)
    written = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(written))
    assert again.built
    fresh = type(layer).from_config(config)
    fresh.build(*(array.shape for array in inputs))
    for other in (again, fresh):
        assert type(other) is type(layer)
        assert json.dumps(other.get_config()) == json.dumps(config)
        assert other.dtype_policy.name == layer.dtype_policy.name
        other.set_weights(layer.get_weights())
        ours = numpy(other(*inputs))
        np.testing.assert_array_equal(ours, numpy(layer(*inputs)))


@pytest.mark.parametrize("name", LAYERS)
def test_build_symbolic_eager_and_compiled_agree(name):
    layer, inputs = made(name)
    built = [variable.path for variable in layer.weights]
    eager = layer(*inputs)
    symbols = [
        keras.Input(array.shape[1:], dtype=array.dtype.name) for array in inputs
    ]
    symbolic = layer(*symbols)
    assert [variable.path for variable in layer.weights] == built
    assert symbolic.shape == (None, *eager.shape[1:])
    shapes = [(None, *array.shape[1:]) for array in inputs]
    assert tuple(layer.compute_output_shape(*shapes)) == symbolic.shape
    assert dtype_of(symbolic) == dtype_of(eager) == "float32"
    compiled = keras.Model(symbols, symbolic).predict(inputs, verbose=0)
    np.testing.assert_allclose(compiled, numpy(eager), atol=2e-6)
    # All weights are used, and building by a call makes the same ones.
    cls, args, kwargs, _ = LAYERS[name]
    if cls is NoiseModulation:
        args = (keras.layers.Dense(6, "tanh"),)
    lazy = cls(*args, **kwargs)
    lazy(*inputs)
    lazy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(numpy(lazy(*inputs)), numpy(eager))


@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"labels"}))
def test_mixed_precision(name):
    layer, inputs = made(name)
    mixed, _ = made(name, dtype="mixed_bfloat16")
    assert {v.dtype for v in mixed.trainable_variables} == {"float32"}
    parts = {part.dtype_policy.name for part in mixed._flatten_layers()}
    assert parts == {"mixed_bfloat16"}
    result = mixed(*inputs)
    assert dtype_of(result) == "bfloat16"
    exact = numpy(layer(*inputs))
    error = np.abs(numpy(result) - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.03


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_sinusoids_are_float32(dtype):
    layer = NoiseEmbedding(5, 16, 100.0, None, dtype=dtype)
    # 997.4 is 996 in bfloat16, another angle altogether.
    level = np.float32([-1.553652, -0.301, 0.0, 1.0955, 997.4])
    layer.build(level.shape)
    randomize(layer)
    angle = level[:, None].astype("float64") * 100.0 ** (-np.arange(8) / 8)
    x = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    w, b, w2, b2 = (np.float64(array) for array in layer.get_weights())
    hidden = x @ w + b
    wanted = hidden / (1 + np.exp(-hidden)) @ w2 + b2
    atol = 1e-4 if dtype == "float32" else 0.03
    np.testing.assert_allclose(numpy(layer(level)), wanted, atol=atol)


@pytest.mark.quick
def test_modulation_starts_as_the_layer_it_wraps():
    for shape in ((3, 6), (3, 5, 6), (3, 2, 5, 6)):
        x = np.resize(X, shape)
        wrapped = keras.layers.Dense(6, "tanh")
        layer = NoiseModulation(wrapped)
        np.testing.assert_array_equal(numpy(layer(x, NOISE)), numpy(wrapped(x)))
        randomize(layer)
        kernel, bias = layer.modulation.get_weights()
        maps = NOISE / (1 + np.exp(-NOISE)) @ kernel + bias
        shift, scale = np.split(
            maps.reshape(3, *(1,) * (len(shape) - 2), 12), 2, -1
        )
        np.testing.assert_allclose(
            numpy(layer(x, NOISE)),
            numpy(wrapped(x * (1 + scale) + shift)),
            atol=1e-5,
        )


def test_modulation_hands_training_on():
    layer = NoiseModulation(keras.layers.Dropout(0.5))
    np.testing.assert_allclose(numpy(layer(X, NOISE)), X)
    dropped = numpy(layer(X, NOISE, training=True))
    assert 0.2 < np.mean(dropped == 0) < 0.8


@pytest.mark.parametrize("modulation", ["after", "before"])
def test_transformer_layer_starts_as_identity_or_unconditioned(modulation):
    kwargs = {"num_heads": 2, "intermediate_dim": 8}
    plain = TransformerLayer(conditioned=False, **kwargs)
    plain(X)
    randomize(plain)
    kwargs["modulation"] = modulation
    for open_gates in (False, True):
        layer = TransformerLayer(open_gates=open_gates, **kwargs)
        layer(X, NOISE)
        maps = layer.modulation_maps.get_weights()
        layer.set_weights(plain.get_weights() + maps)
        wanted = numpy(plain(X)) if open_gates else X
        ours = numpy(layer(X, NOISE))
        np.testing.assert_allclose(ours, wanted, atol=2e-6)
        randomize(layer.modulation_maps)  # from here on noise matters
        assert np.abs(numpy(layer(X, NOISE)) - ours).max() > 0.1
        other = numpy(layer(X, NOISE[::-1])) - numpy(layer(X, NOISE))
        assert np.abs(other[[0, 2]]).max() > 0.01


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_attention_equals_keras(dropout):
    layer = SelfAttention(3, dropout)  # next to 0: other code, same numbers
    layer.build(X.shape)
    randomize(layer)
    theirs = keras.layers.MultiHeadAttention(3, 2)
    theirs.build(X.shape, X.shape)
    weights = [np.reshape(w, (-1, 3, 2)) for w in layer.get_weights()]
    weights = [w if len(w) > 1 else w[0] for w in weights]
    output = [np.eye(6).reshape(3, 2, 6), np.zeros(6)]
    theirs.set_weights(weights + output)
    wanted = numpy(theirs(X, X))
    for training in (False, True):
        ours = numpy(layer(X, training=training))
        np.testing.assert_allclose(ours, wanted, atol=2e-6)


@pytest.mark.parametrize("name", ["plain", "after", "before"])
@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_a_layer_computes_the_same_in_training(name, dropout):
    first, inputs = made(name)
    layer = TransformerLayer.from_config(
        {**first.get_config(), "dropout": dropout}
    )
    layer(*inputs)
    layer.set_weights(first.get_weights())
    ours = numpy(layer(*inputs, training=True))
    np.testing.assert_allclose(ours, numpy(first(*inputs)), atol=2e-6)


@pytest.mark.parametrize("where", ["weights", "attention", "perceptron"])
def test_dropout_is_for_training_only(where):
    layer, inputs = made("after")
    # One place at a time: the others drop nothing, or are multiplied by 0.
    if where == "weights":
        layer.attention_output.dropout_layer.rate = 0.0
        layer.dropout_layer.rate = 0.0
    else:
        layer.attention.dropout = 0.0
        other = layer.output_dense
        if where == "perceptron":
            other = layer.attention_output
        for variable in other.weights:
            variable.assign(np.zeros(variable.shape))
    still = numpy(layer(*inputs))
    np.testing.assert_array_equal(numpy(layer(*inputs, training=False)), still)
    assert np.abs(numpy(layer(*inputs, training=True)) - still).max() > 0.01


def test_unknown_modulation_is_refused():
    match = r"`modulation`.*Received: .*inside.*\. [A-Z]"
    with pytest.raises(ValueError, match=match):
        TransformerLayer(2, 8, modulation="inside")


def test_patches_go_row_by_row():
    layer, _ = made("patches")
    kernel, bias = layer.get_weights()
    tokens = numpy(layer(IMAGES))
    rows = IMAGES.reshape(3, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5)
    wanted = rows.reshape(3, 6, 8) @ kernel.reshape(8, 7) + bias
    np.testing.assert_allclose(tokens, wanted, atol=1e-5)


@pytest.mark.parametrize("modulation", ["before", "after"])
def test_gradients_of_what_is_computed_again(modulation):
    """Training, which computes norms and gates twice, changes no gradient."""
    layer = TransformerLayer(2, 8, modulation=modulation)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    noise = np.random.default_rng(1).normal(size=(2, 5)).astype("float32")
    layer.build(x.shape, noise.shape)
    randomize(layer)
    kept, again = (
        gradients(
            lambda t=training: ops.sum(ops.sin(layer(x, noise, training=t))),
            layer.trainable_variables,
        )
        for training in (False, True)
    )
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
