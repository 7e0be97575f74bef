"""Tokenizers, texts by name or file, and their batches."""

import re
import zipfile

import keras
import numpy as np
import pytest

from keras_dblocks.applications.data import (
    ByteTokenizer,
    DataUnavailable,
    RandomChunks,
    Text8Tokenizer,
    chunks,
    load_text,
    sources,
)

pytestmark = pytest.mark.once

MIXED = "Café — naïve, 'İstanbul', \u212aelvin; ßtraße\r\n\tÆØ 1989  Ok.\ud7ff"
LETTERS = "".join(chr(97 + i * i % 26) for i in range(1000))


def write(path, text):
    path.write_bytes(text.encode())
    return path


# Tokenizers.


@pytest.mark.quick
def test_text8_symbols():
    tokenizer = Text8Tokenizer()
    tokens = tokenizer("  Zebra, a-b!? C\n")
    assert tokens.dtype == "int32" and tokenizer.vocabulary_size() == 27
    expected = [0, 26, 5, 2, 18, 1, 0, 1, 0, 2, 0, 3, 0]
    np.testing.assert_array_equal(tokens, expected)
    assert tokenizer.detokenize(tokens) == " zebra a b c "
    again = tokenizer(tokenizer.detokenize(np.arange(27)))
    np.testing.assert_array_equal(again, np.arange(27))


@pytest.mark.parametrize("text", [MIXED, "a", "A ", " a", "...", "", None])
def test_text8_is_the_definition_of_its_alphabet(text):
    if text is None:
        random = np.random.default_rng(0).integers(1, 0x250, 20_000)
        text = "".join(map(chr, random))
    tokenizer = Text8Tokenizer()
    written = tokenizer.detokenize(tokenizer(text))
    assert written == re.sub("[^a-z]+", " ", text.lower())


def test_bytes_are_those_of_utf8():
    tokenizer = ByteTokenizer()
    tokens = tokenizer(MIXED)
    assert tokens.dtype == "int32" and tokenizer.vocabulary_size() == 256
    assert tokens.tolist() == list(MIXED.encode())
    assert tokenizer.detokenize(tokens) == MIXED
    assert tokenizer.detokenize(tokens[:4]) == "Caf\ufffd"  # half an é


@pytest.mark.parametrize(
    "tokens, match",
    [
        ([3, 27], r"below 27. Received: int64 .* from 3 to 27. Check .*mask"),
        ([-1, 3], "from -1 to 3"),
        ([0.0, 1.0], r"float64 of shape \(2,\)"),
        ([[[1]]], r"shape \(1, 1, 1\)"),
        (1, r"shape \(\)"),
    ],
)
def test_detokenize_refusals(tokens, match):
    with pytest.raises(ValueError, match=match):
        Text8Tokenizer().detokenize(np.asarray(tokens))


# Texts.


def test_python_needs_no_download_and_is_quiet(capsys):
    data = load_text("python", "bytes")
    whole = np.concatenate([data.train, data.validation, data.test])
    text = data.tokenizer.detokenize(whole)
    assert text.startswith("The Zen of Python, by Tim Peters\n\nBeautiful is")
    assert len(text) > 300_000 and data.name == "python"
    again = load_text("python", "bytes")
    np.testing.assert_array_equal(data.train, again.train)
    assert capsys.readouterr().out == ""

    small = load_text("python")
    assert small.vocabulary_size == 27
    assert small.train.dtype == small.test.dtype == "uint8"
    np.testing.assert_array_equal(np.unique(small.train), np.arange(27))
    spaces = small.train == 0
    assert not (spaces[1:] & spaces[:-1]).any()


@pytest.mark.parametrize("suffix", ["txt", "zip"])
@pytest.mark.parametrize("length, part", [(1000, 50), (20, 1), (39, 1)])
def test_file_is_split_in_its_order(suffix, length, part, tmp_path):
    text = LETTERS[:length]
    path = write(tmp_path / "some.txt", text)
    if suffix == "zip":
        path = tmp_path / "some.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("whatever", text)
    data = load_text(path)
    read = data.tokenizer.detokenize
    assert read(data.test) == text[-part:]
    assert read(data.validation) == text[-2 * part : -part]
    assert read(data.train) == text[: -2 * part]
    assert data.name == "some" and isinstance(data.tokenizer, Text8Tokenizer)


def test_characters_are_split_not_bytes(tmp_path):
    path = write(tmp_path / "some.txt", "é" * 90 + "a" * 5 + "ü\rü\rü")
    data = load_text(str(path), "bytes")
    assert data.tokenizer.detokenize(data.test) == "ü\rü\rü"
    assert len(data.train) == 180 and len(data.validation) == 5


def test_text8_is_read_from_where_keras_keeps_it(tmp_path, monkeypatch):
    home = "keras.src.utils.file_utils.config.keras_home"
    monkeypatch.setattr(home, lambda: str(tmp_path))
    (tmp_path / "datasets").mkdir()
    text = " anarchism originated as a term of abuse" * 25  # 1000
    with zipfile.ZipFile(tmp_path / "datasets/text8.zip", "w") as archive:
        archive.writestr("text8", text)
    data = load_text("text8")
    lengths = [len(x) for x in (data.train, data.validation, data.test)]
    assert lengths == [900, 50, 50] and data.name == "text8"
    assert data.tokenizer.detokenize(data.train) == text[:900]


# LM1B.


def test_lm1b_is_one_document_after_another(documents):
    text = "".join(f"{document}\n" for document in documents)
    data = load_text("lm1b", "bytes")
    assert data.tokenizer.detokenize(data.train) == text
    assert data.tokenizer.detokenize(data.test) == text  # mocked: the same
    assert len(data.validation) == 0 and data.name == "lm1b"
    assert data.validation.dtype == data.train.dtype == "uint8"
    tokens = load_text("lm1b").train
    np.testing.assert_array_equal(tokens, Text8Tokenizer()(text))


def test_lm1b_as_tfds_stores_it_in_several_pieces(monkeypatch):
    # TFDS gives bytes; only its mock gives strings.
    pytest.importorskip("tensorflow_datasets")
    split = [{"text": f"é{i}".encode()} for i in range(100_003)]
    monkeypatch.setattr(sources, "_open_tfds", lambda *args: (split, split[:1]))
    data = load_text("lm1b", "bytes")
    text = "".join(f"é{i}\n" for i in range(100_003))
    assert data.tokenizer.detokenize(data.train) == text
    assert data.tokenizer.detokenize(data.test) == "é0\n"


@pytest.mark.parametrize(
    "name, module, function",
    [("text8", keras.utils, "get_file"), ("lm1b", sources, "_open_tfds")],
)
def test_what_cannot_be_had_is_one_line(name, module, function, monkeypatch):
    pytest.importorskip("tensorflow_datasets")

    def refuse(*args, **kwargs):
        raise ConnectionError("no\nanswer")

    monkeypatch.setattr(module, function, refuse)
    match = f"`{name}` must .* Received: ConnectionError: no answer. Check .*"
    with pytest.raises(DataUnavailable, match=match + "a text file.") as error:
        load_text(name)
    assert "\n" not in str(error.value)


# Refusals.


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "at least 20 characters.* Received: 0. Use a longer"),
        (b" \n" * 50, "Received: 0. Use"),
        (b"abc", "Received: 3. Use"),
        (b"caf\xe9" * 20, "UTF-8.*Received: .*0xe9 in position 3.*iconv"),
    ],
)
def test_text_refusals(content, match, tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        load_text(path)


def test_what_is_not_there_is_refused(tmp_path):
    match = '"text8", "lm1b" or a file.*Received: ".*Use one of'
    for unknown in ("wikipedia", tmp_path / "none.txt", tmp_path):
        with pytest.raises(ValueError, match=match):
            load_text(unknown)
    with pytest.raises(ValueError, match="text8.zip must.*not a zip.*fetch"):
        load_text(write(tmp_path / "text8.zip", "PK torn"))
    with pytest.raises(ValueError, match="'bytes'.*Received: \"bpe\". Pass"):
        load_text("python", "bpe")


@pytest.mark.parametrize(
    "tokens, sizes, match",
    [
        (np.arange(12), (13, 2), r"shape \(12,\), sizes \(13, 2\). Use short"),
        (np.arange(0), (4, 2), r"shape \(0,\)"),
        (np.arange(12), (0, 2), r"sizes \(0, 2\)"),
        (np.arange(12), (4, 0), r"sizes \(4, 0\)"),
        (np.arange(12).reshape(3, 4), (2, 2), r"vector.*shape \(3, 4\)"),
        (np.linspace(0, 1, 12), (2, 2), "integers.*float64"),
    ],
)
def test_chunk_refusals(tokens, sizes, match):
    with pytest.raises(ValueError, match=match):
        RandomChunks(tokens, *sizes)
    if sizes[1]:
        with pytest.raises(ValueError, match="vector of integers.*Received"):
            chunks(tokens, sizes[0])


# Batches.


@pytest.mark.quick
def test_chunks_follow_each_other_and_drop_the_rest():
    rows = chunks(np.arange(11, dtype="uint8"), 4)
    assert rows.dtype == "int32"
    np.testing.assert_array_equal(rows, [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(chunks(np.arange(4), 4), [np.arange(4)])


def test_random_chunks_begin_anywhere():
    tokens = np.arange(100, 140, dtype="uint8")
    batches = RandomChunks(tokens, 7, 50, steps_per_epoch=40)
    assert len(batches) == batches.num_batches == 40
    seen = np.concatenate(list(batches))  # (2000, 7)
    assert seen.dtype == "int32" and batches[0].shape == (50, 7)
    first = seen[:, :1]
    np.testing.assert_array_equal(seen, first + np.arange(7))
    # 34 places, each 59 times in the mean: 0 to 33, none left out.
    counts = np.bincount(first.ravel() - 100)
    assert len(counts) == 34 and counts.min() > 25 and counts.max() < 100
    assert (RandomChunks(tokens, 40, 2)[0] == tokens).all()
    # An epoch is as long as the text, unless told otherwise.
    epochs = [RandomChunks(np.arange(n), 10, 8) for n in (1000, 95, 10)]
    assert [epoch.num_batches for epoch in epochs] == [12, 1, 1]


def test_a_batch_depends_on_seed_epoch_and_index_alone():
    tokens = np.arange(5000)

    def batch(seed=0, epoch=0, index=0, before=()):
        batches = RandomChunks(tokens, 4, 8, steps_per_epoch=9, seed=seed)
        for used in before:
            batches[used]
        batches.set_epoch(epoch)
        return batches[index]

    same = batch(1, 2, 3)
    np.testing.assert_array_equal(batch(1, 2, 3, before=(0, 5, 3)), same)
    others = [batch(0, 2, 3), batch(1, 0, 3), batch(1, 2, 0), batch(2, 1, 3)]
    assert all((other != same).any() for other in others)

    batches = RandomChunks(tokens, 4, 8, seed=1)
    batches.set_epoch(1)
    batches.on_epoch_end()
    np.testing.assert_array_equal(batches[3], same)
