"""Gradients of a loss on each backend, for comparison with references."""

import keras
import numpy as np


def gradients(loss_fn, variables):
    """Numpy gradients of `loss_fn()` with respect to Keras variables."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def stateless(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return loss_fn()

        # Compiled as one: operation by operation takes longer.
        grads = jax.jit(jax.grad(stateless))([v.value for v in variables])
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn()
        grads = tape.gradient(loss, [v.value for v in variables])
        # Those of an embedding are sparse.
        grads = [g if g is None else tf.convert_to_tensor(g) for g in grads]
    else:
        for variable in variables:
            variable.value.grad = None  # torch adds to what is there
        loss_fn().backward()
        grads = [v.value.grad for v in variables]
    return [None if g is None else np.array(g) for g in grads]
