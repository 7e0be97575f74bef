"""Text as arrays of tokens: tokenizers, and texts by name or file."""

import contextlib
import dataclasses
import importlib
import io
import itertools
import sysconfig
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_dblocks.applications.data import sources

# N rows, T tokens.

TEXT8 = "http://mattmahoney.net/dc/text8.zip"
LM1B_HOST = "http://www.statmt.org"
USE_A_FILE = "Or pass the path of a text file."
PIECE = 100_000  # documents read at a time


class _Tokenizer:
    def detokenize(self, tokens):
        """Text of tokens (T,), or a list of texts of tokens (N, T)."""
        tokens = _check_tokens(tokens, self.vocabulary_size(), ranks=(1, 2))
        symbols = np.frombuffer(self.symbols, "uint8")[tokens]
        rows = [row.tobytes() for row in np.atleast_2d(symbols)]
        texts = [row.decode("utf-8", errors="replace") for row in rows]
        return texts[0] if tokens.ndim == 1 else texts

    def vocabulary_size(self):
        return len(self.symbols)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_dblocks")
class Text8Tokenizer(_Tokenizer):
    """The 27 symbols of text8: 0 is the space, 1 to 26 are a to z.

    Text is lower-cased, and every run of other characters becomes one space.
    Called with a string, it returns an int32 array (T,). A keras-hub tokenizer
    can take its place.

    Example:

    >>> tokenizer = Text8Tokenizer()
    >>> tokenizer("Ab, c")
    array([1, 2, 0, 3], dtype=int32)
    >>> tokenizer.detokenize(tokenizer("Ab, c"))
    'ab c'
    """

    symbols = b" abcdefghijklmnopqrstuvwxyz"

    def __call__(self, text):
        table = bytes(max(self.symbols.find(byte), 0) for byte in range(256))
        ascii_text = text.lower().encode("ascii", errors="replace")
        tokens = np.frombuffer(ascii_text.translate(table), "uint8")
        letters = tokens > 0
        kept = letters.copy()
        kept[1:] |= letters[:-1]  # of a run, its first
        kept[:1] = True
        return tokens[kept].astype("int32")


@keras.saving.register_keras_serializable("keras_dblocks")
class ByteTokenizer(_Tokenizer):
    """The 256 bytes of UTF-8; bytes that are no UTF-8 come back as U+FFFD.

    Called with a string, it returns an int32 array (T,). A keras-hub tokenizer
    can take its place.

    Example:

    >>> ByteTokenizer()("Hi")
    array([ 72, 105], dtype=int32)
    """

    symbols = bytes(range(256))

    def __call__(self, text):
        return np.frombuffer(text.encode("utf-8"), "uint8").astype("int32")


TOKENIZERS = {"text8": Text8Tokenizer, "bytes": ByteTokenizer}


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
    """Tokens of a text, in contiguous splits.

    Attributes:
        train, validation, test: arrays (T,) of the smallest of uint8, uint16
            and int32 that holds the vocabulary. `RandomChunks` and `chunks`
            make int32 of them.
        vocabulary_size: int.
        name: string, the text's name or the file's.
        tokenizer: what made the tokens.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary_size: int
    name: str
    tokenizer: object


def load_text(name_or_path, tokenizer="text8", data_dir=None):
    """Loads a text by its name, or from a file.

    | name | text | from | splits |
    |---|---|---|---|
    | `"python"` | help and licence, 0.5 MB | Python, no download | 90/5/5 |
    | `"text8"` | Wikipedia, 100 MB | download, 31 MB | 90/5/5 |
    | `"lm1b"` | news, 4 GB | tensorflow-datasets | its train and test |
    | `"some.txt"` | UTF-8 | file | 90/5/5 |
    | `"some.zip"` | UTF-8 | zip of one file | 90/5/5 |

    Splits of 90/5/5 are contiguous: the last 5% of the characters are the
    test, the 5% before them the validation, whatever the tokenizer. "lm1b"
    has no validation split: that array is empty. Each of its documents is
    followed by the tokenizer's `end_token_id`, or by a new line where it has
    none (a space in text8's symbols). The words of "python" are not the same
    in all versions of Python.

    Args:
        name_or_path: string or path, from the table.
        tokenizer: `"text8"`, `"bytes"`, or a tokenizer, such as one of
            keras-hub: called with a string it returns integers (T,), and it
            has `vocabulary_size()`.
        data_dir: folder for what is downloaded. Defaults to that of
            `keras.utils.get_file` for "text8", of TFDS for "lm1b".

    Returns:
        A `TextData`.

    Raises:
        DataUnavailable: when the text cannot be downloaded.
        ValueError: for an unknown name, or text that is empty or not UTF-8.

    Example:

    >>> data = load_text("python")
    >>> data.vocabulary_size, data.train.dtype
    (27, dtype('uint8'))
    """
    if isinstance(tokenizer, str):
        if tokenizer not in TOKENIZERS:
            raise ValueError(
                f"`tokenizer` must be one of {list(TOKENIZERS)} or an object. "
                f'Received: "{tokenizer}". Use a name of the list, or pass a '
                "tokenizer of keras-hub."
            )
        tokenizer = TOKENIZERS[tokenizer]()
    if name_or_path == "lm1b":
        name, (train, test) = "lm1b", _open_lm1b(data_dir)
        train, test = (_encode_all(tokenizer, x) for x in (train, test))
        splits = (train, train[:0], test)
    else:
        name, text = _read(name_or_path, data_dir)
        splits = [_encode(tokenizer, part) for part in _split(name, text)]
    return TextData(*splits, tokenizer.vocabulary_size(), name, tokenizer)


def _read(name_or_path, data_dir):
    if name_or_path == "python":
        return "python", _read_python()
    if name_or_path == "text8":
        return "text8", _read_file(_download_text8(data_dir))
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.stem, _read_file(path)
    raise ValueError(
        'Text must be "python", "text8", "lm1b" or a file that exists. '
        f'Received: "{name_or_path}". Use one of these names, or check the '
        "path."
    )


def _read_python():
    topics = importlib.import_module("pydoc_data.topics").topics
    with contextlib.redirect_stdout(io.StringIO()):  # it prints itself
        zen = importlib.import_module("this")
    # The odd ones first: the test split is of one kind with training.
    texts = ["".join(zen.d.get(letter, letter) for letter in zen.s)]
    license_file = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if license_file.is_file():
        texts.append(license_file.read_text("utf-8"))
    return "\n\n".join(texts + [topics[key] for key in sorted(topics)])


def _download_text8(data_dir):
    try:
        return Path(keras.utils.get_file(origin=TEXT8, cache_dir=data_dir))
    except Exception as error:  # Keras raises no narrower class
        raise sources.unavailable(
            "`text8` must be on this machine, or downloadable.",
            error,
            f"Check the network. {USE_A_FILE}",
        ) from error


def _open_lm1b(data_dir):
    """Training and test split, each an iterable of examples."""
    try:
        tfds = importlib.import_module("tensorflow_datasets")
        with sources._only_errors():
            return sources._open_tfds(tfds, "lm1b", data_dir, LM1B_HOST)
    except Exception as error:  # as in `sources.read_tfds`
        do = "Check the network."
        if isinstance(error, ImportError):
            do = f"Run `pip install {error.name}`."
        raise sources.unavailable(
            "`lm1b` must be on this machine, or downloadable by "
            "tensorflow-datasets.",
            f"{type(error).__name__}: {error}",
            f"{do} {USE_A_FILE}",
        ) from error


def _read_file(path):
    text = _unzip(path) if path.suffix == ".zip" else path.read_bytes()
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8. Received: byte "
            f"0x{text[error.start]:02x} at {error.start}. "
            "Convert it with `iconv -f ENCODING -t UTF-8`."
        ) from error


def _unzip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            (member,) = archive.namelist()
            return archive.read(member)
    except Exception as error:  # of zipfile, zlib or the line above
        raise ValueError(
            f"{path} must be a zip of one text file. "
            f"Received: {error}. Delete it and fetch or make it again."
        ) from error


def _split(name, text):
    part = len(text) // 20  # 5%
    if part == 0 or text.isspace():
        raise ValueError(
            "Text must have at least 20 characters, to be split 90/5/5. "
            f'Received: {len(text.strip())} in "{name}". Use a longer one.'
        )
    first = len(text) - 2 * part
    return text[:first], text[first:-part], text[-part:]


def _encode_all(tokenizer, split):
    """Tokens of the examples of TFDS, one document after another."""
    end = getattr(tokenizer, "end_token_id", None)
    texts = (example["text"] for example in split)
    texts = (t.decode() if isinstance(t, bytes) else t for t in texts)
    pieces = []
    while piece := list(itertools.islice(texts, PIECE)):
        if end is None:  # by text: a run of spaces stays one
            tokens = [_encode(tokenizer, "\n".join([*piece, ""]))]
        else:
            tokens = [_encode(tokenizer, text, [end]) for text in piece]
        pieces.append(np.concatenate(tokens))
    return np.concatenate(pieces)


def _encode(tokenizer, text, end=()):
    size = tokenizer.vocabulary_size()
    tokens = _check_tokens(tokenizer(text), size, ranks=(1,))
    dtype = "uint8" if size <= 2**8 else "uint16" if size <= 2**16 else "int32"
    return np.append(tokens, end).astype(dtype)


def _check_tokens(tokens, vocabulary_size, ranks):
    """Tokens of numpy, a list or a backend, as a numpy array."""
    if isinstance(tokens, list):
        tokens = np.asarray(tokens)
    tokens = keras.ops.convert_to_numpy(tokens)
    low, high = (tokens.min(), tokens.max()) if tokens.size else (0, 0)
    if (
        tokens.dtype.kind not in "iu"
        or tokens.ndim not in ranks
        or low < 0
        or high >= vocabulary_size
    ):
        shapes = " or ".join({1: "(T,)", 2: "(N, T)"}[rank] for rank in ranks)
        raise ValueError(
            f"Tokens must be integers {shapes} in [0, {vocabulary_size}). "
            f"Received: {tokens.dtype} of shape {tokens.shape}, from {low} to "
            f"{high}. Check the tokenizer, and fill in mask tokens first."
        )
    return tokens
