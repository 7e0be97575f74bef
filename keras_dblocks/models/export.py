"""Export for serving, with checks of what each backend can export."""

import importlib
import importlib.util
import os
from typing import Any

import keras
from keras import tree

from keras_dblocks import compat

# The packages that each backend's exporter needs.
FORMATS = {
    "tf_saved_model": {"tensorflow": ["tensorflow"], "jax": ["tensorflow"]},
    "onnx": {
        "tensorflow": ["tf2onnx"],
        "jax": ["jax2onnx", "flax"],
        "torch": ["onnxscript"],
    },
}
OPSET = 18  # the first version of ONNX with bitwise operations on integers


class Exportable:
    """`export` of a model that knows its input without having been called.

    A mix-in that stands before `keras.Model`. Its subclass defines
    `input_specs()`, which returns a tree of `keras.KerasTensor`, or None.
    """

    def input_specs(self) -> Any:
        """Specs of what the model's `call` takes."""
        raise NotImplementedError

    def export(
        self,
        filepath: os.PathLike | str,
        format: str = "tf_saved_model",
        verbose: bool = False,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """`keras.Model.export`, for serving without this project.

        The exported model computes what `predict` does. If its chain starts
        from noise, rows are counted within a batch, so that row i of every
        batch gets the same noise.

        Args:
            filepath: path.
            format: `"tf_saved_model"` (on TensorFlow, and on JAX with
                TensorFlow installed) or `"onnx"` (each backend with its
                converter installed).
            verbose: bool.
            input_signature: as in Keras. Defaults to the network's condition
                with any number of rows, but with one row for ONNX on PyTorch,
                where Keras exports fixed shapes.
            kwargs: as in Keras.

        Raises:
            ValueError: if this backend cannot export the model.
        """
        backend = keras.backend.backend()
        spec = self.input_specs()
        if spec is None:
            raise ValueError(
                "What is exported maps a condition to an answer. Received: "
                f"{self.name}, which has no condition. Use `generate`."
            )
        packages = FORMATS.get(format, {}).get(backend)
        if packages is None:
            able = [f for f, by in FORMATS.items() if backend in by]
            raise ValueError(
                f"On {backend} models are exported as {' or '.join(able)}. "
                f"Received: format={format!r}. Load the saved model on another "
                "backend and export it there."
            )
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        if missing:
            names = " ".join(missing)
            raise ValueError(
                f"On {backend} format={format!r} needs {' and '.join(packages)}"
                f". Received: an environment without {names}. "
                f"Run `pip install {names}`."
            )
        if self.dtype_policy.compute_dtype != "float32":
            raise ValueError(
                "Models are exported in float32. Received: dtype="
                f"{self.dtype_policy.name}. Make the model with "
                '`dtype="float32"` and load its weights.'
            )
        if not self.built:
            self.build()
        compat.mark_called(self)
        if input_signature is None:
            rows = 1 if (backend, format) == ("torch", "onnx") else None
            input_signature = [
                tree.map_structure(lambda s: _input_spec(s, rows), spec)
            ]
        if format == "onnx":
            kwargs.setdefault("opset_version", OPSET)
        super().export(
            filepath,
            format=format,
            verbose=verbose,
            input_signature=input_signature,
            **kwargs,
        )
        if format == "onnx":
            _check_onnx(os.fspath(filepath), backend)


def _check_onnx(path, backend):
    """Removes a file that no runtime could load, and raises a ValueError."""
    if importlib.util.find_spec("onnx") is None:
        return
    checker = importlib.import_module("onnx.checker")
    try:
        checker.check_model(path)
    except Exception as error:  # onnx raises errors of several classes
        os.remove(path)
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "An exported model must be of ONNX's own operations. Received: "
            f"one that {backend}'s converter could not express ({reason}). "
            "Load the saved model on another backend and export it there."
        ) from error


def _input_spec(tensor, rows):
    shape = (rows, *tensor.shape[1:])
    return keras.InputSpec(shape=shape, dtype=tensor.dtype)
