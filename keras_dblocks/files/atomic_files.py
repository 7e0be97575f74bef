"""Files are written beside and renamed: none is ever half written."""

import os
import uuid

from keras_dblocks.files.adapters import (
    apply_quantization,
    quantization_config,
)


class AtomicFiles:
    """`save` and `save_weights` that leave the old file or the new one.

    A mix-in before `keras.Model`. A model is built before it is saved, or
    loaded, so that none of its weights is left out.
    """

    def get_build_config(self):
        # Sizes are in the config; which layers are quantized or have LoRA
        # matrices is not.
        return {"built": True, "adapters": quantization_config(self)}

    def build_from_config(self, config):
        if not self.built:
            self.build()
        apply_quantization(self, config.get("adapters"))

    def save(self, filepath, overwrite=True, **kwargs):
        """`keras.Model.save`, written beside and renamed.

        Raises:
            ValueError: with `overwrite=False` if the file exists.
        """
        self._write(super().save, ".keras", filepath, overwrite, **kwargs)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """`keras.Model.save_weights`, written beside and renamed.

        Raises:
            ValueError: with `overwrite=False` if the file exists.
        """
        write = super().save_weights
        self._write(write, ".weights.h5", filepath, overwrite, **kwargs)

    def load_weights(self, filepath, **kwargs):
        """`keras.Model.load_weights`; builds a fresh model first."""
        if not self.built:
            self.build()
        super().load_weights(filepath, **kwargs)

    def _write(self, write, suffix, filepath, overwrite, **kwargs):
        if not self.built:
            self.build()
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
        folder, name = os.path.split(path)
        beside = os.path.join(folder, f".{uuid.uuid4().hex}.{name}")
        try:
            write(beside, overwrite=True, **kwargs)
            os.replace(beside, path)
        finally:
            if os.path.exists(beside):
                os.remove(beside)
