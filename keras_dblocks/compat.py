"""The only place where Keras's private names stand, each with its reason.

Tried with Keras 3.15.0 and 3.15.1; `pyproject.toml` allows no other series,
since a private name may change with any of them. `make test-nightly` runs the
tests against the newest pre-release.
"""

import keras
import numpy as np
from keras import ops


def sublayers(layer):
    """The layer and all layers in it, each once, in a fixed order.

    `_flatten_layers`: a subclassed model has no public list of all layers.
    """
    return list(layer._flatten_layers())


def seed_generators(layers):
    """All `SeedGenerator` of layers and of what they hold, each once.

    `_seed_generators`: they are no variables and no layers, and no public
    list has them.
    """
    found = {}
    for layer in layers:
        for part in sublayers(layer):
            found.update((id(g), g) for g in part._seed_generators)
    return list(found.values())


def reseed(generator, words):
    """Sets the state of a `SeedGenerator` to two 32-bit words.

    JAX and TensorFlow hash both words at every draw. Keras on PyTorch adds
    them, so that draws of different generators meet: there `next` hashes them
    first, and what is left for the sum is one word. `_initial_seed`: without
    one, dropout on PyTorch draws from PyTorch's global generator.
    """
    generator._initial_seed = int(words[0] >> 1)
    dtype = generator.state.dtype
    if dtype == "int32":
        words = words.astype("uint32").astype("int32")
    generator.state.assign(words.astype(dtype))
    if keras.backend.backend() != "torch":
        return
    advance = type(generator).next

    def hashed(ordered=True):
        state = ops.convert_to_numpy(advance(generator, ordered))
        sequence = np.random.SeedSequence(state.astype("uint32").tolist())
        (word,) = sequence.generate_state(1).astype("int32")
        return ops.convert_to_tensor(np.array([word, 0], "int32"))

    generator.next = hashed


def loss_tracker(model):
    """The running mean behind the log's `loss`.

    `_loss_tracker`: a training step of one's own must move it, and
    `model.metrics` holds it among others without saying which it is.
    """
    return model._loss_tracker


def compile_metrics(model):
    """The metrics given to `compile`, as one object, or None.

    `_compile_metrics`: Keras cannot report them before their first update,
    and does not say that there was none.
    """
    return model._compile_metrics


def iterations(optimizer):
    """The variable that counts an optimizer's steps.

    `_iterations`: the public `iterations` is a copy on JAX while a step is
    compiled, and with gradient accumulation a count of fewer steps.
    """
    return optimizer._iterations


def trainable_variables(optimizer):
    """What an optimizer was built with, in the order it goes by.

    `_trainable_variables`: `stateless_apply` wants gradients in that order.
    """
    return optimizer._trainable_variables


def set_trainable_variables(optimizer, variables):
    """Fills the list for an optimizer that builds no state of its own."""
    optimizer._trainable_variables.extend(variables)


def schedule(optimizer):
    """The learning rate as it was given: a variable or a schedule.

    `_learning_rate`: `learning_rate` is the value at the present step.
    """
    return optimizer._learning_rate


def set_schedule(optimizer, rate):
    """Puts a `LearningRateSchedule` in place of another one."""
    optimizer._learning_rate = rate


def weight_averages(optimizer):
    """The optimizer's moving averages of weights (`use_ema=True`), or []."""
    return getattr(optimizer, "_model_variables_moving_average", [])


def copy_exclusions(source, target):
    """Gives `target` what `exclude_from_weight_decay` told `source`.

    The settings are not in the optimizer's config.
    """
    names = "_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"
    for name in names:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def initial_epoch(model):
    """Epoch that BackupAndRestore goes on with, or None for a fresh run.

    `_initial_epoch`: Keras says nowhere else that a run was resumed.
    """
    return model._initial_epoch


def symbolic_build(model, data):
    """Builds optimizer and metrics for a batch, as `fit` does on JAX."""
    model._symbolic_build(data_batch=data)


def give_back_state(model, state):
    """Puts the four lists of state of a JAX epoch back into the model.

    `_jax_state`: Keras took them out of the model for the epoch; `fit` puts
    back what lies here when it is left by an error.
    """
    names = (
        "trainable_variables",
        "non_trainable_variables",
        "optimizer_variables",
        "metrics_variables",
    )
    model._jax_state = dict(zip(names, state, strict=True))


def epoch_state(model):
    """The lists of a JAX epoch under way by name, {} outside of one."""
    return getattr(model, "_jax_state", None) or {}


def accept_optionals(model, step):
    """On TensorFlow, lets a step take batches that are `tf.Optional`."""
    return model._autoconvert_optionals(step)


def inside_fit(arguments):
    """True for keyword arguments of an `evaluate` that `fit` itself calls."""
    return bool(arguments.get("_use_cached_eval_dataset"))


def mark_called(model):
    """Lets a built model be exported that was only called symbolically.

    `_called`: `export` refuses a model whose `__call__` never ran, though all
    that it needs is known from `build`.
    """
    model._called = True


def layers_were_replaced(model):
    """Forgets what was compiled for the variables that a model had.

    `_post_quantize`: on PyTorch the parameters of the module are listed anew.
    """
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    model._post_quantize(None)
