"""Strings in place of tokens, by a tokenizer attached to a model."""

from typing import Any

import keras
import numpy as np

from keras_dblocks.applications.data.text_batches import chunks


class TakesStrings:
    """`fit` of a `DiffusionBlocks` on tokens `(N, T)`, or on strings.

    `tokenizer` may be set at any time. It is saved with the model if its class
    is registered with Keras. Otherwise it must be attached again to a loaded
    model.
    """

    def __setattr__(self, name, value):
        if name == "tokenizer":
            # Tokenizers of keras-hub are layers. They must not be tracked as
            # sublayers, which Keras refuses once the model is built.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """`keras.Model.fit` on tokens `(N, T)`, datasets of them, or text.

        Strings, also those of `validation_data`, are joined and cut into
        sequences of tokens. See `CheckedData.fit` for the rest.
        """
        validation = kwargs.get("validation_data")
        if is_text(validation) or hasattr(validation, "shape"):
            kwargs["validation_data"] = (self.sequences_of(validation),)
        return super().fit(self.sequences_of(x), y, *args, **kwargs)

    def check_targets(self, x, y):
        if y is not None:
            raise ValueError(
                "The tokens are data and target at once. Received: y. "
                "Pass them alone, `fit(tokens)`."
            )

    def tokens_to_score(self, x: Any, y: Any, score: str) -> np.ndarray:
        """`x` of `evaluate` as checked tokens `(N, T)`, at least one row.

        Args:
            x, y: as given to `evaluate`.
            score: string. What is computed, for the error message.
        """
        self.check_targets(x, y)
        tokens = np.asarray(self.sequences_of(x))
        self.check_data(tokens)
        if not len(tokens):
            raise ValueError(
                f"The {score} needs at least one sequence. Received: none. "
                f"Pass {self.sequence_length} tokens or more."
            )
        return tokens.astype("int32")

    def tokens_of(self, text: str) -> np.ndarray:
        """Tokens `(T,)` of a string; needs a tokenizer."""
        if self.tokenizer is None:
            raise ValueError(
                "Text needs a tokenizer. Received: a string, tokenizer=None. "
                "Pass tokens, or attach one: `model.tokenizer = ...`."
            )
        return np.asarray(self.tokenizer(text), "int32").reshape(-1)

    def sequences_of(self, x: Any) -> Any:
        """Joins strings and returns tokens `(N, T)`; else returns `x`."""
        if not is_text(x):
            return x
        texts = [x] if isinstance(x, str) else x
        tokens = np.concatenate([self.tokens_of(text) for text in texts])
        return chunks(tokens, self.sequence_length)

    def get_config(self):
        config = super().get_config()
        kind = type(self.tokenizer)
        name = keras.saving.get_registered_name(kind)
        known = keras.saving.get_registered_object(name) is kind
        serialize = keras.saving.serialize_keras_object
        config["tokenizer"] = serialize(self.tokenizer) if known else None
        return config

    @classmethod
    def from_config(cls, config):
        tokenizer = config.get("tokenizer")
        if isinstance(tokenizer, dict):
            tokenizer = keras.saving.deserialize_keras_object(tokenizer)
        return super().from_config({**config, "tokenizer": tokenizer})


def is_text(x):
    """True for a string and for a list of strings."""
    if isinstance(x, (list, tuple)) and len(x):
        return all(isinstance(text, str) for text in x)
    return isinstance(x, str)
