"""Functions of many small operations that a backend traces only once."""

import keras

BACKEND = keras.backend.backend()

if BACKEND == "jax":
    import jax
elif BACKEND == "tensorflow":
    import tensorflow as tf


def traced_once(*ranks):
    """Decorator for a function of int32 tensors of the given ranks.

    Without it every call adds all operations to the graph that is being
    traced, which for a random number generator takes longer than to run them.
    On JAX one trace serves all calls of the same shapes, on TensorFlow all
    calls. PyTorch runs the function as it is.

    Args:
        ranks: ints, one for each argument of the function.
    """

    def decorate(function):
        if BACKEND == "jax":
            return jax.jit(function)
        if BACKEND == "tensorflow":
            specs = [tf.TensorSpec((None,) * rank, tf.int32) for rank in ranks]
            return tf.function(function, specs, autograph=False)
        return function

    return decorate
