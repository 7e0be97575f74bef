"""Text as arrays of tokens: tokenizers, and texts by name or from a file."""

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


@keras.saving.register_keras_serializable("keras_dblocks")
class ByteTokenizer:
    """Each byte of the UTF-8 encoding is a token.

    `detokenize` replaces bytes that are not valid UTF-8 by U+FFFD.
    """

    symbols = bytes(range(256))

    def __call__(self, text):
        """Returns the tokens of a string, an int32 array (T,)."""
        return np.frombuffer(text.encode(), "uint8").astype("int32")

    def detokenize(self, tokens):
        """Returns the text of tokens (T,), or a list of texts for (N, T)."""
        tokens = _check_tokens(tokens, self.vocabulary_size())
        symbols = np.frombuffer(self.symbols, "uint8")
        encoded = symbols[np.atleast_2d(tokens)]
        texts = [text.tobytes().decode(errors="replace") for text in encoded]
        return texts[0] if tokens.ndim == 1 else texts

    def vocabulary_size(self):
        return len(self.symbols)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_dblocks")
class Text8Tokenizer(ByteTokenizer):
    """The 27 symbols of text8: 0 is the space, 1 to 26 are a to z.

    Text is converted to lower case, and each run of other characters to one
    space.

    >>> Text8Tokenizer()("Ab, c")
    array([1, 2, 0, 3], dtype=int32)
    """

    symbols = b" abcdefghijklmnopqrstuvwxyz"
    _table = bytes(97) + bytes(range(1, 27)) + bytes(133)  # token of each byte

    def __call__(self, text):
        text = text.lower().encode("ascii", errors="replace")
        tokens = np.frombuffer(text.translate(self._table), "uint8")
        kept = tokens > 0
        kept[1:] |= tokens[:-1] > 0  # the first space of a run
        kept[:1] = True
        return tokens[kept].astype("int32")


TOKENIZERS = {"text8": Text8Tokenizer, "bytes": ByteTokenizer}


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
    """Tokens of a text in three contiguous splits, and their tokenizer.

    The splits are arrays (T,) of the smallest type among uint8, uint16 and
    int32 that can hold the vocabulary.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary_size: int
    name: str
    tokenizer: object


def load_text(name_or_path, tokenizer="text8"):
    """Loads `TextData` by its name, or from a file.

    | name | text | splits |
    |---|---|---|
    | `"python"` | the help of Python, 0.5 MB, no download | 90/5/5 |
    | `"text8"` | Wikipedia, 100 MB, downloaded | 90/5/5 |
    | `"lm1b"` | news, 4 GB, by tensorflow-datasets | published splits |
    | `"some.txt"` | a file in UTF-8, or a zip archive of one | 90/5/5 |

    With 90/5/5 the last 5% of the characters are the test split and the 5%
    before them the validation split. The validation split of "lm1b" is empty.
    Each document of "lm1b" ends with the `end_token_id` of the tokenizer, or
    with a new line if the tokenizer has none. The text "python" differs between
    versions of Python.

    Args:
        name_or_path: string or path, from the table.
        tokenizer: "text8", "bytes", or an object such as the tokenizers of
            keras-hub, which converts a string to integers (T,) and has a method
            `vocabulary_size()`.

    Returns:
        A `TextData`.

    Raises:
        DataUnavailable: if the text can neither be found nor downloaded.
        ValueError: for an unknown name, and for text that is empty or not
            UTF-8.

    >>> load_text("python").vocabulary_size
    27
    """
    if isinstance(tokenizer, str):
        if tokenizer not in TOKENIZERS:
            raise ValueError(
                f"`tokenizer` must be one of {list(TOKENIZERS)} or an object. "
                f'Received: "{tokenizer}". Pass a tokenizer of keras-hub.'
            )
        tokenizer = TOKENIZERS[tokenizer]()
    path = Path(name_or_path).expanduser()
    if name_or_path == "lm1b":
        splits = _read_lm1b(tokenizer)
    else:
        if name_or_path == "text8":
            url = "http://mattmahoney.net/dc/text8.zip"
            with _or_unavailable("text8"):
                path = Path(keras.utils.get_file(origin=url))
        text = _read_python() if name_or_path == "python" else _read_file(path)
        part = len(text) // 20  # 5%
        if part == 0 or text.isspace():
            raise ValueError(
                "Text must have at least 20 characters, to be split 90/5/5. "
                f"Received: {len(text.strip())}. Use a longer text."
            )
        splits = text[: -2 * part], text[-2 * part : -part], text[-part:]
        splits = [_encode(tokenizer, text) for text in splits]
    return TextData(*splits, tokenizer.vocabulary_size(), path.stem, tokenizer)


def _read_python():
    topics = importlib.import_module("pydoc_data.topics").topics
    # The module `this` prints its text when it is imported.
    with contextlib.redirect_stdout(io.StringIO()):
        zen = importlib.import_module("this")
    # The short texts come first, so that the test split is of the same kind as
    # most of the training text.
    texts = ["".join(zen.d.get(letter, letter) for letter in zen.s)]
    license_file = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if license_file.is_file():
        texts.append(license_file.read_text("utf-8"))
    return "\n\n".join(texts + [topics[key] for key in sorted(topics)])


def _read_file(path):
    if not path.is_file():
        raise ValueError(
            'Text must be "python", "text8", "lm1b" or a file that exists. '
            f'Received: "{path}". Use one of these names, or check the path.'
        )
    try:
        if path.suffix != ".zip":
            return path.read_bytes().decode()
        with zipfile.ZipFile(path) as archive:
            return b"".join(map(archive.read, archive.namelist())).decode()
    except (UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be text in UTF-8, or a zip of it. Received: {error}. "
            "Convert it with `iconv -t UTF-8`, or delete it and fetch it again."
        ) from error


@contextlib.contextmanager
def _or_unavailable(name):
    try:
        yield
    except Exception as error:  # of Keras, TFDS or requests
        raise sources.unavailable(
            f"`{name}` must be on this machine, or downloadable.",
            f"{type(error).__name__}: {error}",
            "Check network and packages, or pass the path of a text file.",
        ) from error


def _read_lm1b(tokenizer):
    with _or_unavailable("lm1b"), sources._only_errors():
        tfds = importlib.import_module("tensorflow_datasets")
        splits = sources._open_tfds(tfds, "lm1b", None, "http://www.statmt.org")
    train, test = (_encode_documents(tokenizer, split) for split in splits)
    return train, train[:0], test


def _encode_documents(tokenizer, split):
    end = getattr(tokenizer, "end_token_id", None)
    texts = (example["text"] for example in split)
    texts = (t.decode() if isinstance(t, bytes) else t for t in texts)
    tokens = []
    while piece := list(itertools.islice(texts, 100_000)):
        if end is None:  # one text, so that no two spaces are adjacent
            piece = ["".join(f"{text}\n" for text in piece)]
        piece = [_encode(tokenizer, text, end) for text in piece]
        tokens.append(np.concatenate(piece))
    return np.concatenate(tokens)


def _encode(tokenizer, text, end=None):
    size = tokenizer.vocabulary_size()
    dtype = "uint8" if size <= 2**8 else "uint16" if size <= 2**16 else "int32"
    tokens = _check_tokens(tokenizer(text), size)
    return (tokens if end is None else np.append(tokens, end)).astype(dtype)


def _check_tokens(tokens, vocabulary_size):
    if not isinstance(tokens, np.ndarray):
        tokens = keras.ops.convert_to_numpy(tokens)
    low, high = (tokens.min(), tokens.max()) if tokens.size else (0, 0)
    whole = tokens.dtype.kind in "iu" and tokens.ndim in (1, 2)
    if not whole or low < 0 or high >= vocabulary_size:
        raise ValueError(
            f"Tokens must be integers (T,) or (N, T) below {vocabulary_size}. "
            f"Received: {tokens.dtype} of shape {tokens.shape}, from {low} to "
            f"{high}. Check the tokenizer, and fill in mask tokens first."
        )
    return tokens
