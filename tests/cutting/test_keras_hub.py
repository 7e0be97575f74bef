"""Keras Hub's networks, cut: what they were before, trained, and saved."""

import warnings

import keras
import numpy as np
import pytest

import keras_dblocks
from helpers.chunked import count_chunks, set_chunk
from keras_dblocks import chunks, compat

SIZES = {
    "vocabulary_size": 64,
    "num_layers": 4,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}
LLAMA = {**SIZES, "rope_max_wavelength": 10000}
GPT2 = {
    "vocabulary_size": 64,
    "num_layers": 4,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 16,
}
CAUSAL = {
    "Llama3": LLAMA,
    "Gemma": {**SIZES, "head_dim": 8},
    "Qwen3": {**SIZES, "head_dim": 8},
    "Mistral": SIZES,
    "GPT2": GPT2,
}
slow = pytest.mark.slow  # each is a network to compile
FEW = ["Llama3", *(pytest.param(k, marks=slow) for k in list(CAUSAL)[1:])]


def causal(kind):
    # Its import takes ten seconds, and imports TensorFlow where there is one.
    models = pytest.importorskip(
        "keras_hub", reason="`make setup` installs keras-hub"
    ).models
    keras.utils.set_random_seed(0)
    backbone = getattr(models, f"{kind}Backbone")(**CAUSAL[kind])
    task = getattr(models, f"{kind}CausalLM")
    return task(backbone=backbone, preprocessor=None)


def tokens(count=8, length=8):
    ids = np.random.default_rng(0).integers(1, 64, (count, length + 1))
    mask = np.ones((count, length), "int32")
    x = {"token_ids": ids[:, :-1].astype("int32"), "padding_mask": mask}
    return x, ids[:, 1:].astype("int32"), mask.astype("float32")


def moved_by_fit(cut, epochs):
    """Paths of the weights that are others after some epochs."""
    x, y, mask = tokens()
    weights = cut.model.weights
    before = {v.path: np.array(v) for v in weights}
    cut.compile(keras.optimizers.AdamW(0.01), steps_per_visit=1)
    cut.fit(x, y, 4, epochs=epochs, sample_weight=mask, verbose=0)
    return {v.path for v in weights if (np.array(v) != before[v.path]).any()}


@pytest.mark.parametrize("kind", FEW)
def test_a_language_model(kind, tmp_path):
    lm = causal(kind)
    x, y, mask = tokens()
    before = lm.predict(x, verbose=0)
    cut = keras_dblocks.cut(lm, 2)
    np.testing.assert_array_equal(cut.predict(x, verbose=0), before)
    kinds = [
        [type(u.layer).__name__ for u in block.units if u.is_composite]
        for block in cut.blocks[:2]
    ]
    assert [len(names) for names in kinds] == [2, 2]
    cut.compile(keras.optimizers.AdamW(0.01), steps_per_visit=1, remat=True)
    history = cut.fit(x, y, 4, epochs=6, sample_weight=mask, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert "sparse_categorical_accuracy" in history
    # It generates, and is saved as what it always was.
    prompt = {k: np.array(v[:2]) for k, v in x.items()}
    prompt["padding_mask"][:, 4:] = 0
    written = lm.generate(prompt, stop_token_ids=None)
    assert written["token_ids"].shape == (2, 8)
    cut.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras", compile=False)
    assert type(loaded) is type(lm)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), lm.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FEW)
def test_a_language_model_block_after_block(kind, tmp_path):
    """A tied vocabulary is the first block's, and every block reads it."""
    lm = causal(kind)
    x, y, mask = tokens()
    before = lm.predict(x, verbose=0)
    cut = keras_dblocks.cut(lm, 2, training="sequential")
    steps = cut.predict_steps(x)
    np.testing.assert_allclose(steps[-1], before, rtol=1e-5, atol=1e-5)
    repeated = [
        sum(unit.is_composite for unit in block.units) for block in cut.blocks
    ]
    assert repeated == [2, 2]
    tables = [v for v in lm.weights if "token_embedding/embeddings" in v.path]
    first = {id(v) for v in cut.blocks[0].weights}
    assert {id(v) for v in tables} <= first
    heads = sum(v.shape[0] * v.shape[-1] for v in cut.head_layers[0].weights)
    assert heads < 64 * 16 or kind == "Mistral"  # its vocabulary is not tied
    cut.compile(keras.optimizers.AdamW(0.01))
    history = cut.fit(x, y, 4, epochs=8, sample_weight=mask, verbose=0).history
    for index, losses in enumerate(
        (history["block_0_loss"][:4], history["block_1_loss"][4:])
    ):
        assert losses[-1] < losses[0], index
    cut.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras", compile=False)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), lm.predict(x, verbose=0), atol=1e-5
    )


@pytest.mark.slow
def test_logits_in_chunks_block_after_block(monkeypatch):
    x, y, mask = tokens()
    calls, found = count_chunks(monkeypatch, "cutting.large_head"), []
    for size in (chunks.CHUNK, 200):
        set_chunk(monkeypatch, size)
        cut = keras_dblocks.cut(causal("Llama3"), 2, training="sequential")
        cut.compile(keras.optimizers.AdamW(0.01))
        history = cut.fit(x, y, 4, epochs=4, sample_weight=mask, verbose=0)
        found.append(history.history["loss"])
    assert calls  # of the first block's head, and of the network's own
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.eager
def test_lora_of_a_language_model_after_the_cut():
    lm = causal("Llama3")
    cut = keras_dblocks.cut(lm, 2)
    lm.backbone.enable_lora(2)
    trained = {v.path for v in lm.trainable_variables if "lora" in v.path}
    assert trained
    moved = moved_by_fit(cut, 2)
    assert moved == {v.path for v in lm.trainable_variables}
    assert trained <= moved


@pytest.mark.parametrize(
    "weighted",
    [
        pytest.param(True, marks=pytest.mark.eager),
        pytest.param(False, marks=pytest.mark.slow),
    ],
)
def test_logits_in_chunks_are_the_logits(weighted, monkeypatch):
    x, y, mask = tokens()
    mask[0, 3:] = 0.0
    calls, found = count_chunks(monkeypatch, "cutting.large_head"), []
    for size in (chunks.CHUNK, 200):
        # A batch's logits are 4 x 8 x 64 numbers.
        set_chunk(monkeypatch, size)
        lm = causal("Llama3")
        cut = keras_dblocks.cut(lm, 2)
        cut.compile(keras.optimizers.SGD(0.1), steps_per_visit=1)
        weight = {"sample_weight": mask} if weighted else {}
        history = cut.fit(x, y, 4, epochs=2, verbose=0, **weight).history
        found.append((history, [np.array(w) for w in lm.weights]))
    assert set(calls) == {8}
    for name in ("loss", "sparse_categorical_accuracy"):
        np.testing.assert_allclose(
            *(history[name] for history, _ in found), rtol=1e-5
        )
    for one, other in zip(*(weights for _, weights in found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.eager
def test_texts_are_preprocessed_as_by_the_task():
    models = pytest.importorskip("keras_hub").models
    names = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "Ġa"]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = ["a b", "Ġ a"]
    tokenizer = models.GPT2Tokenizer(vocabulary, merges)
    preprocessor = models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    keras.utils.set_random_seed(0)
    backbone = models.GPT2Backbone(**GPT2)
    lm = models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)
    texts = ["ab ab abc", "hello a world", "keras ab", "zzz a a a"] * 2
    cut = keras_dblocks.cut(lm, 2)
    cut.compile(keras.optimizers.AdamW(0.01), steps_per_visit=1)
    history = cut.fit(
        texts, batch_size=4, epochs=4, verbose=0, validation_data=(texts,)
    ).history
    assert history["val_loss"][-1] < history["val_loss"][0]
    np.testing.assert_allclose(
        cut.evaluate(texts, verbose=0), lm.evaluate(texts, verbose=0), rtol=1e-5
    )
    assert isinstance(cut.generate("ab ", max_length=8), str)


@pytest.mark.slow
def test_lora_on_a_quantized_base():
    """Gradients pass through integers; nothing but the matrices moves."""
    lm = causal("Llama3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without weights to quantize
        lm.quantize("int8")
    lm.backbone.enable_lora(2)
    cut = keras_dblocks.cut(lm, 2)
    moved = moved_by_fit(cut, 4)
    assert moved == {v.path for v in lm.trainable_variables}
    assert sum("lora_kernel_b" in path for path in moved) == 8


def classifier(kind):
    models = pytest.importorskip("keras_hub").models
    keras.utils.set_random_seed(0)
    rng, y = np.random.default_rng(0), np.array([0, 1, 2, 1])
    if kind == "Bert":
        sizes = {**GPT2, "max_sequence_length": 8}
        ids = rng.integers(1, 30, (4, 8)).astype("int32")
        x = {
            "token_ids": ids,
            "segment_ids": 0 * ids,
            "padding_mask": 1 + 0 * ids,
        }
        backbone = models.BertBackbone(**sizes)
        task = models.BertTextClassifier
    else:
        x = rng.normal(size=(4, 32, 32, 3)).astype("float32")
        sizes = {"num_layers": 4, "num_heads": 2, "hidden_dim": 16}
        backbone = models.ViTBackbone((32, 32, 3), 8, mlp_dim=32, **sizes)
        task = models.ViTImageClassifier
    return task(backbone=backbone, num_classes=3, preprocessor=None), x, y


@pytest.mark.eager
@pytest.mark.parametrize("kind", ["ViT", pytest.param("Bert", marks=slow)])
def test_a_classifier(kind):
    model, x, y = classifier(kind)
    before = model.predict(x, verbose=0)
    cut = keras_dblocks.cut(model, 2)
    np.testing.assert_array_equal(cut.predict(x, verbose=0), before)
    layers = [
        sum(unit.is_composite for unit in block.units) for block in cut.blocks
    ]
    assert min(layers) >= 2
    cut.compile(keras.optimizers.Adam(0.003), steps_per_visit=1)
    losses = cut.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.eager
def test_an_encoder_is_opened_for_local_losses():
    """Keras Hub's encoder is one layer, whose `call` runs a list of layers."""
    model, x, y = classifier("ViT")
    before = model.predict(x, verbose=0)
    parts = compat.sublayers(model)
    nodes = [len(part._inbound_nodes) for part in parts]
    cut = keras_dblocks.cut(model, 2, training="sequential")
    assert nodes == [len(part._inbound_nodes) for part in parts]
    layers = [
        sum("transformer_block" in unit.name for unit in block.units)
        for block in cut.blocks
    ]
    assert layers == [2, 2]
    np.testing.assert_array_equal(cut.predict_steps(x)[-1], before)
    cut.compile(keras.optimizers.Adam(0.003))
    cut.fit(x, y, epochs=20, verbose=0)
    assert (cut.predict_steps(x).argmax(-1) == y).all()


@pytest.mark.slow
def test_a_network_of_keras_applications():
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        (32, 32, 3), weights=None, classes=3, alpha=0.35
    )
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    before = model.predict(x, verbose=0)
    cut = keras_dblocks.cut(model, 3)
    np.testing.assert_array_equal(cut.predict(x, verbose=0), before)
    cut.compile("adam", "sparse_categorical_crossentropy", steps_per_visit=1)
    losses = cut.fit(x, np.array([0, 1, 2, 1]), epochs=6, verbose=0).history
    assert losses["loss"][-1] < losses["loss"][0]


@pytest.mark.eager
def test_the_streams_of_a_diffusion_transformer(tmp_path):
    """Stable Diffusion 3's: two streams and a time are handed over."""
    pytest.importorskip("keras_hub", reason="`make setup` installs keras-hub")
    from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiT

    keras.utils.set_random_seed(0)
    shapes = {
        "latent": (8, 8, 4),
        "context": (5, 12),
        "pooled_projection": (10,),
        "timestep": (1,),
    }
    model = MMDiT(
        2,
        16,
        4,
        2,
        4,
        4,
        latent_shape=shapes["latent"],
        context_shape=shapes["context"],
        pooled_projection_shape=shapes["pooled_projection"],
    )
    rng = np.random.default_rng(0)
    x = {k: rng.normal(size=(8, *s)).astype("f4") for k, s in shapes.items()}
    y = rng.normal(size=(8, 8, 8, 4)).astype("f4")
    before = model.predict(x, verbose=0)
    cut = keras_dblocks.cut(model, 2, training="sequential")
    steps = cut.predict_steps(x)
    np.testing.assert_allclose(steps[-1], before, atol=1e-6)
    cut.compile(keras.optimizers.Adam(1e-2), "mse")
    cut.fit(x, y, batch_size=8, epochs=6, verbose=0)
    errors = [
        np.mean((made - y) ** 2, (1, 2, 3, 4))
        for made in (steps, cut.predict_steps(x))
    ]
    assert (errors[1] < errors[0]).all()
    cut.save_blocks(tmp_path)
    made = keras_dblocks.predict_from_blocks(tmp_path, x)
    after = model.predict(x, verbose=0)
    np.testing.assert_allclose(made, after, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), after, atol=1e-5)
