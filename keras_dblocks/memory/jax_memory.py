"""XLA's own accounting of a compiled step; nothing is run."""

import jax

from keras_dblocks import compat
from keras_dblocks.training.jax_step import JaxStep, compiled, state_variables


def how():
    """How the figures were had."""
    return f"XLA's accounting on {jax.devices()[0].platform}, nothing was run"


def temporaries(model, data, index=None):
    """Bytes of temporaries of a step of the model, or of block `index`."""
    if index is not None:
        programs = JaxStep(model, index).lowered(data, state_of(model))
    else:
        compat.symbolic_build(model, data)
        model.make_train_function()
        step = compiled(model.train_step)
        programs = [step.lower(state_of(model), data)]
    sizes = [p.compile().memory_analysis() for p in programs]
    return max(size.temp_size_in_bytes for size in sizes)


def state_of(model):
    """State lists as Keras's JAX trainer holds them."""
    return tuple([v.value for v in kind] for kind in state_variables(model))
