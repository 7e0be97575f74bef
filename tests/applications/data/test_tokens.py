"""Tokenizers as keras-hub's, whose tokens are tensors, and ours saved."""

import keras
import numpy as np
import pytest

from keras_dblocks.applications.data import (
    ByteTokenizer,
    Text8Tokenizer,
    load_text,
)

LETTERS = "".join(chr(97 + i * i % 26) for i in range(1000))


class HubTokenizer:
    """Answers as a tokenizer of keras-hub: tensors of the backend."""

    def __init__(self, size=300, ids=ord):
        self.size = size
        self.ids = ids

    def __call__(self, text):
        return keras.ops.convert_to_tensor([self.ids(c) for c in text])

    def vocabulary_size(self):
        return self.size


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "convert", [list, np.uint8, keras.ops.convert_to_tensor]
)
def test_detokenize_takes_rows_of_any_kind(convert):
    rows = convert([[1, 2, 0], [26, 0, 3]])
    assert Text8Tokenizer().detokenize(rows) == ["ab ", "z c"]
    assert Text8Tokenizer().detokenize(rows[1]) == "z c"


@pytest.mark.parametrize("kind", [Text8Tokenizer, ByteTokenizer])
def test_tokenizers_are_saved_with_a_model(kind):
    config = keras.saving.serialize_keras_object(kind())
    assert config["registered_name"] == f"keras_dblocks>{kind.__name__}"
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert type(again) is kind


@pytest.mark.parametrize(
    "size, dtype",
    [(256, "uint8"), (257, "uint16"), (2**16, "uint16"), (2**16 + 1, "int32")],
)
def test_tokens_are_kept_small(size, dtype, tmp_path):
    text = LETTERS + "".join(map(chr, range(200, 256)))
    data = load_text(write(tmp_path / "some.txt", text), HubTokenizer(size))
    assert isinstance(data.test, np.ndarray) and data.test.dtype == dtype
    assert data.vocabulary_size == size
    np.testing.assert_array_equal(data.test, [ord(c) for c in text[-52:]])


@pytest.mark.parametrize(
    "ids, match",
    [
        (ord, "below 200. Received: int.* to 233"),
        (lambda letter: ord(letter) / 2, "Received: float"),
        (lambda letter: [[1]], r"shape \(\d+, 1, 1\)"),
    ],
)
def test_tokens_are_checked_before_they_are_made_small(ids, match, tmp_path):
    path = write(tmp_path / "some.txt", LETTERS + "é" * 60)
    with pytest.raises(ValueError, match=match):
        load_text(path, HubTokenizer(200, ids))


def test_lm1b_documents_end_in_the_end_token(documents):
    tokenizer = HubTokenizer(300)
    tokenizer.end_token_id = 299
    train = load_text("lm1b", tokenizer).train
    expected = [x for text in documents for x in [*map(ord, text), 299]]
    np.testing.assert_array_equal(train, expected)
    assert train.dtype == "uint16"
