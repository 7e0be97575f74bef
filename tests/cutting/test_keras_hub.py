"""Keras Hub's networks, cut: what they were before, trained, and saved."""

import keras
import numpy as np
import pytest

import keras_dblocks
from keras_dblocks import chunks

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


def test_lora_of_a_language_model_after_the_cut():
    lm = causal("Llama3")
    x, y, mask = tokens()
    cut = keras_dblocks.cut(lm, 2)
    lm.backbone.enable_lora(2)
    trained = {v.path for v in lm.trainable_variables if "lora" in v.path}
    assert trained
    before = {v.path: np.array(v) for v in lm.weights}
    cut.compile(keras.optimizers.AdamW(0.01), steps_per_visit=1)
    cut.fit(x, y, 4, epochs=2, sample_weight=mask, verbose=0)
    moved = {
        v.path for v in lm.weights if (np.array(v) != before[v.path]).any()
    }
    assert moved == {v.path for v in lm.trainable_variables}
    assert trained <= moved


@pytest.mark.parametrize("weighted", [False, True])
def test_logits_in_chunks_are_the_logits(weighted, monkeypatch):
    x, y, mask = tokens()
    mask[0, 3:] = 0.0
    calls, found = [], []
    real = chunks.in_chunks

    def counted(function, count, *arguments, **keywords):
        calls.append(count)
        return real(function, count, *arguments, **keywords)

    monkeypatch.setattr("keras_dblocks.cutting.large_head.in_chunks", counted)
    for size in (chunks.CHUNK, 200):
        # A batch's logits are 4 x 8 x 64 numbers.
        monkeypatch.setattr(chunks, "CHUNK", size)
        monkeypatch.setattr(chunks, "LARGE", size)
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
