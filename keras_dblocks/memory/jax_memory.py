"""XLA's own accounting of a compiled step; nothing is run."""

import jax

from keras_dblocks.training.jax_step import BlockStep, compiler_options


def how():
    """How the figures were had."""
    return f"XLA's accounting on {jax.devices()[0].platform}, nothing was run"


def temporaries(model, data, index=None):
    """Bytes of temporaries of a step of the model, or of block `index`."""
    state = state_of(model)
    if index is not None:
        block = BlockStep(model, index)
        active = tuple(
            [values[i] for i in positions]
            for values, positions in zip(state, block.positions, strict=True)
        )
        frozen = [state[kind][i] for kind, i in block.frozen_positions]
        step, arguments = block.step, (active, frozen)
    else:
        model._symbolic_build(data_batch=data)
        model.make_train_function()
        step = jax.jit(
            model.train_step,
            donate_argnums=0,
            compiler_options=compiler_options(),
        )
        arguments = (state_of(model),)
    lowered = step.lower(*arguments, data)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def state_of(model):
    """State lists as Keras's JAX trainer holds them."""
    kinds = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return tuple([v.value for v in kind] for kind in kinds)
