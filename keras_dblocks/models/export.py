"""Export for serving, and what a backend cannot export."""

import importlib.util

import keras
from keras import tree

from keras_dblocks import compat

FORMATS = {
    "tf_saved_model": {"tensorflow": "tensorflow", "jax": "tensorflow"},
    "onnx": {
        "tensorflow": "tf2onnx",
        "jax": "jax2onnx",
        "torch": "onnxscript",
    },
}


class Exportable:
    """`export` of a model that knows its input without having been called.

    A mix-in before `keras.Model`, which has `input_specs()`: a tree of
    `keras.KerasTensor`, or None.
    """

    def input_specs(self):
        """What the model's `call` takes."""
        raise NotImplementedError

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=False,
        input_signature=None,
        **kwargs,
    ):
        """`keras.Model.export`, for serving without this project.

        What is exported answers like `predict`. A model whose chain starts
        from noise counts rows within a batch: row i of each batch gets the
        noise of row i.

        Args:
            filepath: path.
            format: `"tf_saved_model"` (on TensorFlow, and on JAX with
                TensorFlow installed) or `"onnx"` (each backend with its
                converter installed).
            verbose: bool.
            input_signature: as in Keras. Defaults to the network's condition
                with any number of rows.
            kwargs: as in Keras.

        Raises:
            ValueError: for what this backend cannot export.
        """
        backend = keras.backend.backend()
        spec = self.input_specs()
        if spec is None:
            raise ValueError(
                "What is exported maps a condition to an answer. Received: "
                f"{self.name}, which has no condition. Use `generate`."
            )
        package = FORMATS.get(format, {}).get(backend)
        if package is None:
            able = [f for f, by in FORMATS.items() if backend in by]
            raise ValueError(
                f"On {backend} models are exported as {' or '.join(able)}. "
                f"Received: format={format!r}. Load the saved model on another "
                "backend and export it there."
            )
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"On {backend} format={format!r} needs the package {package}. "
                f"Received: an environment without. `pip install {package}`."
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
            input_signature = [tree.map_structure(_input_spec, spec)]
        super().export(
            filepath,
            format=format,
            verbose=verbose,
            input_signature=input_signature,
            **kwargs,
        )


def _input_spec(tensor):
    return keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype)
