"""Quantized models and LoRA matrices: the same answers, nothing else moves."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from helpers.small_systems import SYSTEMS, answers, data, make
from helpers.small_vit import refused
from keras_dblocks.files.adapters import (
    apply_quantization,
    quantization_config,
    reset_lora,
)
from keras_dblocks.layers import Embedding

pytestmark = [
    # keras 3.15: `Model.quantize` says so of every layer without a kernel.
    pytest.mark.filterwarnings(
        r"ignore:Layer \w+ does not have a `quantize` method:UserWarning"
    ),
    # keras 3.15: `ReversibleEmbedding` transposes a vector.
    pytest.mark.filterwarnings(
        "ignore:The use of `x.T` on tensors of dimension:UserWarning"
    ),
]


def largest_error(before, after):
    """Of the answers, relative to their length."""
    return max(
        np.linalg.norm(one - other) / np.linalg.norm(one)
        for one, other in zip(before, after, strict=True)
    )


def error_of_int8(name, twin):
    model = make(name, twin)
    before = answers(name, model)
    model.quantize("int8")
    return largest_error(before, answers(name, model))


# The tied read-out takes as long again and has a test of its own below; the
# others are made of layers that these have.
QUICK = [
    pytest.param(name, marks=pytest.mark.slow)
    if name in ("mdm_tied", "dit", "ar", "recurrent_depth")
    else name
    for name in SYSTEMS
]


@pytest.mark.eager
@pytest.mark.parametrize("name", QUICK)
def test_quantized_blocks_answer_as_well_as_the_quantized_twin(name):
    ours, twins = (error_of_int8(name, twin) for twin in (False, True))
    assert 1e-4 < ours < 2 * twins
    assert twins < 0.1


def parts_with_kernels(model):
    kinds = (keras.layers.Dense, keras.layers.Embedding)
    parts = {id(p): p for p in model._flatten_layers() if isinstance(p, kinds)}
    return list(parts.values())


def enable_lora(model):
    """LoRA everywhere, all other variables frozen; the LoRA matrices."""
    for part in parts_with_kernels(model):
        part.enable_lora(2)
    for variable in model.trainable_variables:
        variable.trainable = "lora" in variable.name
    return model.trainable_variables


# Whole and alone once each by default; the systems differ in their layers.
MARKS = {("vit", True): [], ("recurrent_depth", False): [pytest.mark.heavy]}
LORA = [
    pytest.param(
        name, alone, marks=MARKS.get((name, alone), [pytest.mark.slow])
    )
    for name in SYSTEMS
    for alone in (False, True)
]


@pytest.mark.parametrize(("name", "alone"), LORA)
def test_only_lora_matrices_move(name, alone):
    whole = make(name)
    model = whole.block(0) if alone else whole
    watched = list({id(v): v for v in model.trainable_variables}.values())
    matrices = enable_lora(model)
    assert len(matrices) == 2 * len(parts_with_kernels(model))
    before = [np.array(v) for v in watched]
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(*data(name), batch_size=4, epochs=2, verbose=0)
    for variable, value in zip(watched, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)
    still = [v.path for v in matrices if "_b" in v.name and not np.any(v)]
    # The first block is handed nothing: what would read it learns nothing.
    nothing = ("block_0/stem/belief", "block_0/state_input/projection")
    assert not [path for path in still if not any(p in path for p in nothing)]


@pytest.mark.eager
@pytest.mark.parametrize(
    "name", ["vit", pytest.param("mdm_tied", marks=pytest.mark.slow)]
)
def test_quantized_and_adapted_models_come_back(tmp_path, name):
    model = make(name)
    assert quantization_config(model) == []
    model.quantize("int8")
    part = parts_with_kernels(model)[0]
    part.enable_lora(2)
    for variable in part.trainable_variables:
        variable.assign(0.1 * keras.random.normal(variable.shape, seed=1))
    config = json.loads(json.dumps(quantization_config(model)))
    model.save_weights(tmp_path / "adapted.weights.h5")
    again = make(name)
    apply_quantization(again, config)
    assert quantization_config(again) == config
    again.load_weights(tmp_path / "adapted.weights.h5")
    error = largest_error(answers(name, model), answers(name, again))
    assert error < 0.02  # LoRA matrices become part of an int8 kernel
    reset_lora(again)
    (loaded,) = (p for p in parts_with_kernels(again) if p.lora_enabled)
    assert np.any(np.array(loaded.trainable_variables[0]))
    unchanged = largest_error(answers(name, again), answers(name, again))
    assert unchanged == 0.0


@pytest.mark.eager
def test_configs_of_other_models_are_refused():
    model, other = make("vit"), make("dit")
    model.quantize("int8")
    config = quantization_config(model)
    config[0]["position"] += 1
    refused(lambda: apply_quantization(other, config), "must be those of")
    assert quantization_config(other) == []
    apply_quantization(other, None)


def test_the_quantized_embedding_in_reverse_adds_lora():
    layer = Embedding(7, 4, scale=2.0, reverse_dim=6)
    layer.build((None,))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    layer.enable_lora(2)
    for variable in layer.trainable_variables:
        variable.assign(keras.random.normal(variable.shape, seed=1))
    rows, logits = (
        ops.convert_to_numpy(t)
        for t in (layer(np.arange(7)), layer(x, reverse=True))
    )
    np.testing.assert_allclose(logits, x @ rows[:6].T / 2.0, rtol=1e-4)
    layer.quantize("int8")
    near = {"rtol": 0.05, "atol": 0.05}
    for again, exact in (
        (layer(np.arange(7)), rows),
        (layer(x, reverse=True), logits),
    ):
        again = ops.convert_to_numpy(again)
        np.testing.assert_allclose(again, exact, **near)


@pytest.mark.eager
@pytest.mark.parametrize("part", ["whole", "block"])
def test_a_quantized_file_predicts_the_same(part, tmp_path):
    model = make("vit")
    if part == "block":
        model = model.block(0)
    x, _ = data("vit")
    before = model.predict(x, verbose=0)
    model.quantize("int8")
    wanted = model.predict(x, verbose=0)
    assert np.abs(wanted - before).max() > 0
    model.save(tmp_path / "quantized.keras")
    loaded = keras.saving.load_model(tmp_path / "quantized.keras")
    found = loaded.predict(x, verbose=0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_averaged_weights_are_what_is_quantized():
    model = make("dit")
    for block in model.blocks:
        for average in (block.shared_average, block.average):
            average.update()  # takes the first values
    kernel = parts_with_kernels(model)[0].kernel
    averaged = np.array(kernel)
    kernel.assign(averaged + 1.0)
    model.quantize("int8")
    scale = np.array(parts_with_kernels(model)[0].kernel_scale)
    assert np.isfinite(scale).all()
    quantized = np.array(parts_with_kernels(model)[0]._kernel) / scale
    np.testing.assert_allclose(quantized, averaged, atol=0.05)


@pytest.mark.heavy
def test_lora_after_compile_asks_for_compile():
    model = make("vit")
    model.compile("adamw")
    parts_with_kernels(model)[0].enable_lora(2)
    x, y = data("vit")
    refused(lambda: model.fit(x, y, verbose=0), "Call `compile` again")
    model.compile("adamw")
    model.fit(x, y, verbose=0)
