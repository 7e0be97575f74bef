"""Writes files under a temporary name and renames them when complete."""

import contextlib
import os
import uuid
from typing import Any

from keras_dblocks import processes
from keras_dblocks.files.adapters import (
    apply_quantization,
    quantization_config,
)


class AtomicFiles:
    """`save` and `save_weights` that never leave a half-written file.

    A mix-in that stands before `keras.Model`. A model is built before it is
    saved or loaded, so that none of its weights is left out.
    """

    def get_build_config(self):
        # The config holds the sizes, but not which layers are quantized or
        # have LoRA matrices.
        return {"built": True, "adapters": quantization_config(self)}

    def build_from_config(self, config):
        if not self.built:
            self.build()
        apply_quantization(self, config.get("adapters"))

    def save(
        self, filepath: os.PathLike | str, overwrite: bool = True, **kwargs: Any
    ) -> None:
        """`keras.Model.save` that replaces the file when it is complete.

        Raises:
            ValueError: with `overwrite=False` if the file exists.
        """
        self._write(super().save, ".keras", filepath, overwrite, **kwargs)

    def save_weights(
        self, filepath: os.PathLike | str, overwrite: bool = True, **kwargs: Any
    ) -> None:
        """`keras.Model.save_weights` that replaces a file when complete.

        Raises:
            ValueError: with `overwrite=False` if the file exists.
        """
        write = super().save_weights
        self._write(write, ".weights.h5", filepath, overwrite, **kwargs)

    def load_weights(self, filepath: os.PathLike | str, **kwargs: Any) -> None:
        """`keras.Model.load_weights`, which first builds a fresh model."""
        if not self.built:
            self.build()
        super().load_weights(filepath, **kwargs)

    def _write(self, write, suffix, filepath, overwrite, **kwargs):
        if not self.built:
            self.build()
        if processes.number():  # process 0 writes
            return
        path = os.fspath(filepath)
        if os.path.exists(path) and not overwrite:
            raise ValueError(
                "`overwrite=False` keeps a file that exists. "
                f"Received: {path!r}, which does. "
                "Choose another name, or pass `overwrite=True`."
            )
        whole_file = path.endswith(suffix) and "://" not in path
        if not whole_file:
            write(path, overwrite=True, **kwargs)
            return
        with written_beside(path) as beside:
            write(beside, overwrite=True, **kwargs)


@contextlib.contextmanager
def written_beside(path):
    """Context whose value is a path beside, renamed to `path` at its end."""
    folder, name = os.path.split(os.fspath(path))
    beside = os.path.join(folder, f".{uuid.uuid4().hex}.{name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)
