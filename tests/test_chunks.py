"""Large predictions in chunks: the same training in less memory."""

import keras
import numpy as np
import pytest

from helpers import small_ar, small_mdm
from helpers.chunked import count_chunks, set_chunk
from keras_dblocks import chunks, memory
from keras_dblocks.applications import MDM, ARTransformer
from keras_dblocks.layers import (
    LabelEmbedding,
    OneHotTokens,
    TokenEmbedding,
    Tokens,
)

KINDS = {
    "ar": lambda: small_ar.make(sharing="all"),
    "ar_tied_signal": lambda: small_ar.make(
        hand_over="signal", tied=True, padding_token=0
    ),
    "two_streams": lambda: small_ar.make(reference=True),
    "mdm": small_mdm.make,
    "mdm_tied": lambda: small_mdm.make(tied=True, padding_token=0),
}


def trained(make, data):
    """Losses and weights after a few steps of every block."""
    model = make()
    model.compile(
        keras.optimizers.SGD(0.01),
        block_order="round_robin",
        curriculum="sampled",
    )
    found = [model.train_on_batch(data) for _ in range(6)]
    losses = [float(np.ravel(f)[0]) for f in found]
    return losses, [np.array(w) for w in model.get_weights()]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("mdm", marks=pytest.mark.eager),
        pytest.param("ar_tied_signal", marks=pytest.mark.slow),
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("ar", "two_streams", "mdm_tied")
        ),
    ],
)
def test_a_step_in_chunks_is_the_same_step(kind, monkeypatch):
    data = small_ar.random_tokens(4)
    losses, weights = trained(KINDS[kind], data)
    # 4 rows of 6 positions and 3 tokens, 20 numbers in a chunk: 4 chunks.
    set_chunk(monkeypatch, 20, large=40)
    calls = count_chunks(monkeypatch, "models.block")
    in_chunks, others = trained(KINDS[kind], data)
    assert calls and set(calls) <= {4, 6}
    np.testing.assert_allclose(in_chunks, losses, rtol=1e-5)
    for one, other in zip(others, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_is_large_enough_for_chunks():
    head = keras.layers.Dense(8)
    large = chunks.LARGE
    assert chunks.number_of_chunks(head, (64, large // 64 - 1), 1) == 1
    assert chunks.number_of_chunks(head, (64, large // 64), 1) == 4
    assert chunks.number_of_chunks(head, (64, large // 64), 2) == 4
    assert chunks.number_of_chunks(head, (64, chunks.CHUNK // 8), 1) == 8
    assert chunks.number_of_chunks(head, (2, large), 1) == 2
    assert chunks.number_of_chunks(head, (large,), 8) == 1
    assert chunks.number_of_chunks(head, (None, large), 8) == 1

    class Amended(keras.layers.Layer):
        def call(self, x, signal):
            return x

    assert chunks.number_of_chunks(Amended(), (64, large), 8) == 1


def test_a_loss_of_one_s_own_gets_the_whole_prediction():
    class Mine(Tokens):
        def loss(self, tokens, logits, noisy, level):
            return 2 * super().loss(tokens, logits, noisy, level)

    assert not Mine.has_position_losses()
    assert not LabelEmbedding.has_position_losses()
    assert Tokens.has_position_losses()
    assert TokenEmbedding.has_position_losses()
    assert OneHotTokens.has_position_losses()


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="a figure is the peak of a whole process on a CPU",
)
@pytest.mark.parametrize("cls", [ARTransformer, MDM])
def test_a_large_vocabulary_needs_little_memory(cls, monkeypatch):
    """Of the five tensors of the size of the logits none is left whole."""
    sizes = {"vocabulary_size": 4096, "sequence_length": 64, "hidden_dim": 16}
    batch, logits = 8, 4 * 8 * 64 * 4096  # bytes

    def temporaries():
        model = cls(**sizes, num_layers=2, num_blocks=2, num_heads=1)
        model.compile("sgd", curriculum="sampled")
        tokens = np.zeros((batch, 64), "int32")
        return memory.measure(model, tokens, blocks=[1]).temporaries

    set_chunk(monkeypatch, logits)  # more numbers than there are
    whole = temporaries()
    set_chunk(monkeypatch, 2**17)
    in_chunks = temporaries()
    assert whole > 2 * logits
    assert in_chunks < 0.6 * logits
