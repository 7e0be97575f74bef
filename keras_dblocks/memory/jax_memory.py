"""Memory by XLA's own accounting of a compiled step, without running it."""

import jax

from keras_dblocks import compat
from keras_dblocks.training.jax_step import JaxStep, compiled, state_variables


def how():
    """Describes how the figures were obtained."""
    return f"XLA's accounting on {jax.devices()[0].platform}, nothing was run"


def temporaries(model, data, index=None):
    """Bytes of temporaries in a step of the model, or of block `index`."""
    compat.symbolic_build(model, data)
    if index is not None:
        programs = JaxStep(model, index).lowered(data, state_of(model))
    else:
        model.make_train_function()
        step = compiled(model.train_step)
        programs = [step.lower(state_of(model), data)]
    sizes = [p.compile().memory_analysis() for p in programs]
    return max(size.temp_size_in_bytes for size in sizes)


def state_of(model):
    """The lists of state in the form of Keras's JAX trainer."""
    return tuple([v.value for v in kind] for kind in state_variables(model))
