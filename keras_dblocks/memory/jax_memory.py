"""XLA's own accounting of a compiled step; nothing is run."""

import jax

from keras_dblocks.training.jax_step import BlockStep, compiled, state_variables


def how():
    """How the figures were had."""
    return f"XLA's accounting on {jax.devices()[0].platform}, nothing was run"


def temporaries(model, data, index=None):
    """Bytes of temporaries of a step of the model, or of block `index`."""
    if index is not None:
        block = BlockStep(model, index)
        step, arguments = block.step, block.part_of(state_of(model))
    else:
        model._symbolic_build(data_batch=data)
        model.make_train_function()
        step, arguments = compiled(model.train_step), (state_of(model),)
    lowered = step.lower(*arguments, data)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def state_of(model):
    """State lists as Keras's JAX trainer holds them."""
    return tuple([v.value for v in kind] for kind in state_variables(model))
