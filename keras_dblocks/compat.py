"""The only module that uses private names of Keras, each with its reason.

It was tried with Keras 3.15.0 and 3.15.1. `pyproject.toml` allows no other
series, since a private name may change with any of them. `make test-nightly`
runs the tests against the newest pre-release.
"""

import inspect
import re

import keras
import numpy as np
from keras import ops

# `MetricsList`: see `Losses`. `DataAdapter` is the base class of what makes
# batches of a dataset; `fit` takes one as `x`, but no public name exports it.
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.variables import AutocastScope
from keras.src.trainers.compile_utils import MetricsList
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.data_adapter import (
    DataAdapter as DataAdapter,
)


def sublayers(layer):
    """The layer and all layers nested in it, each once, in a fixed order.

    `_flatten_layers`: a subclassed model has no public list of all layers.
    """
    return list(layer._flatten_layers())


def direct_sublayers(layer):
    """The layers that a layer holds itself, also in lists, in their order.

    `_flatten_layers`: as above.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(layer):
    """Variables that a layer made itself, and not its sublayers or metrics.

    `_trainable_variables`, `_non_trainable_variables`: the public lists have
    those of sublayers too.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def overrides(model, name):
    """Whether a method of `keras.Model` was replaced, outside of Keras.

    Keras's models are of several classes, each with a trainer of its own.
    """
    for kind in type(model).__mro__:
        if name in vars(kind):
            return not kind.__module__.startswith("keras.")
    return False


def last_operation(model):
    """What makes the output of a functional model with a single one.

    `_keras_history`, `_inbound_nodes`: a functional model's graph has no
    public form.

    Returns:
        Tuple of the operation, a dict of the arguments beside its only
        tensor, and the output's shape. None if there is no such operation.
    """
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    if len(outputs) != 1 or overrides(model, "call"):
        return None
    history = outputs[0]._keras_history
    node = history.operation._inbound_nodes[history.node_index]
    args, kwargs = node.arguments.args, dict(node.arguments.kwargs)
    if len(args) != 1 or len(node.input_tensors) != 1:
        return None
    same = [
        other
        for other in history.operation._inbound_nodes
        if kwargs.items() <= other.arguments.kwargs.items()
    ]
    if len(same) > 1:  # it is called so elsewhere too
        return None
    return history.operation, kwargs, outputs[0].shape


def graph(model):
    """The graph of a functional or `Sequential` model, or None.

    `_functional`, `_nodes_by_depth`: as above. The order is that in which
    Keras runs the nodes.

    Returns:
        Tuple of the inputs, the nodes and the outputs, all lists.
    """
    if not isinstance(model, keras.Model) or overrides(model, "call"):
        return None
    if isinstance(model, keras.Sequential):
        model = model._functional
    by_depth = getattr(model, "_nodes_by_depth", None)
    if by_depth is None:
        return None
    nodes = [n for depth in sorted(by_depth)[::-1] for n in by_depth[depth]]
    nodes = [node for node in nodes if node.operation and not node.is_input]
    return list(model.inputs), nodes, list(model.outputs)


def inner_graph(node):
    """The graph of the model that a node calls, or None if it calls none.

    None too where the model would do more than run its graph: cast what it
    gets, or pick it by name.
    """
    inner = graph(node.operation)
    if inner is None:
        return None
    args, kwargs = node.arguments.args, node.arguments.kwargs
    taken = node.input_tensors
    plain = all(v is None for v in keras.tree.flatten(kwargs))
    alike = plain and len(keras.tree.flatten(args)) == len(inner[0])
    alike = alike and len(args) == 1 and len(taken) == len(inner[0])
    if not alike or not all(
        len(one.shape) == len(own.shape) and one.dtype == own.dtype
        for one, own in zip(taken, inner[0], strict=True)
    ):
        return None
    wanted = getattr(node.operation, "_inputs_struct", None)
    named = isinstance(args[0], dict)
    if named and (not isinstance(wanted, dict) or {*wanted} != {*args[0]}):
        return None
    return inner


def graph_of_call(node):
    """The graph of what a layer's own `call` does at a node, or None.

    It is for layers that only call others, an encoder that holds a list. None
    where the `call` might do something else in training, or with a mask; where
    it reads variables itself, or changes what it computes with; and where it
    does not run on symbolic tensors.

    `_inbound_nodes`: they are put back, so that nothing is left in the layers.
    """
    layer, taken = node.operation, node.input_tensors
    accepted = inspect.signature(layer.call).parameters
    args, kwargs = node.arguments.args, node.arguments.kwargs
    if len(accepted) != 1 or len(args) != 1 or len(taken) != 1 or kwargs:
        return None
    if args[0] is not taken[0] or own_variables(layer):
        return None
    if layer.compute_dtype != layer.variable_dtype:
        return None
    parts = [part for part in sublayers(layer) if part is not layer]
    before = [list(part._inbound_nodes) for part in parts]
    spec = keras.Input(batch_shape=taken[0].shape, dtype=taken[0].dtype)
    try:
        model = keras.Model(spec, layer.call(spec))
    except Exception:  # of whatever the call does
        return None
    finally:
        for part, nodes in zip(parts, before, strict=True):
            part._inbound_nodes[:] = nodes
    found = graph(model)
    called = [node.operation for node in found[1]]
    known = {id(v) for one in called for v in getattr(one, "variables", [])}
    whole = known == {id(v) for v in layer.variables}
    return found if whole and len(found[2]) == len(node.outputs) else None


def functional_inputs(model, x):
    """Inputs of a functional model as its graph takes them, a flat list.

    `_standardize_inputs`: it casts them, and finds those that have names.
    """
    if isinstance(model, keras.Sequential):
        model = model._functional
    return model._standardize_inputs(x)


def run_node(node, operation, tensors, training):
    """Calls what a node of a graph calls, with its other arguments.

    `_call_context_args`: which operations take `training`.

    Args:
        node: node of `graph`.
        operation: the node's own, or one like it.
        tensors: list in place of `node.input_tensors`.
        training: bool.
    """
    pairs = zip(node.input_tensors, tensors, strict=True)
    known = {id(wanted): tensor for wanted, tensor in pairs}
    args, kwargs = node.arguments.fill_in(known)
    if "training" in getattr(operation, "_call_context_args", {}):
        kwargs["training"] = training
    return operation(*args, **kwargs)


def compile_arguments(model):
    """What a compiled model was compiled with, a dict of the objects.

    `_compile_config`: the public `get_compile_config` serializes them, which
    a function of the user's may not survive.
    """
    return dict(model._compile_config.config)


def compute_loss(caller, model, x, y, y_pred, sample_weight, training):
    """A model's own loss of a batch, in a step of another model that calls it.

    `_compute_loss`: it calls `compute_loss` with or without `training`,
    whatever the class takes. `_losses_override`: on JAX the losses that layers
    added in `evaluate` are there, in the model that is evaluated.
    """
    before, model._losses_override = (
        model._losses_override,
        caller._losses_override,
    )
    try:
        return model._compute_loss(x, y, y_pred, sample_weight, training)
    finally:
        model._losses_override = before


def seed_generators(layers):
    """All `SeedGenerator` of the layers and their sublayers, each once.

    `_seed_generators`: generators are neither variables nor layers, and no
    public list holds them.
    """
    found = {}
    for layer in layers:
        for part in sublayers(layer):
            found.update((id(g), g) for g in part._seed_generators)
    return list(found.values())


def changing_variables(layer):
    """Variables that a call of the layer may change: draws and statistics.

    `_non_trainable_variables`: the public list also has weights that were
    frozen later. Those of a quantized layer are constants.
    """
    own = [
        variable
        for part in sublayers(layer)
        if not getattr(part, "quantization_mode", None)
        for variable in part._non_trainable_variables
    ]
    states = [generator.state for generator in seed_generators([layer])]
    return list({id(v): v for v in (*own, *states)}.values())


def changes_in_calls(layer):
    """Whether a call may change the layer or add a loss to the model's.

    What does not train in this package's heads are tables.
    """
    if seed_generators([layer]):
        return True
    return any(
        getattr(part, "activity_regularizer", None) is not None
        or not type(part).__module__.startswith("keras_dblocks.")
        and changing_variables(part)
        for part in sublayers(layer)
    )


class CallState:
    """What Keras keeps beside the arguments of the call that now runs.

    A backward pass that calls layers again does so after that call. Entered
    as a context, it brings this back: whether the model trains, and the dtype
    that weights are cast to. `global_state`: both are there alone.
    """

    names = "current_call_ctx", "autocast_scope"

    def __init__(self):
        self.values = self._read()

    def _read(self):
        return [global_state.get_global_attribute(name) for name in self.names]

    def _write(self, values):
        for name, value in zip(self.names, values, strict=True):
            global_state.set_global_attribute(name, value)

    def __enter__(self):
        self.before = self._read()
        self._write(self.values)

    def __exit__(self, *error):
        self._write(self.before)


def autocast(dtype):
    """Context in which weights are read in a dtype; None: as they are.

    `AutocastScope`: within a layer's call weights are cast when read.
    """
    return AutocastScope(dtype)


def mask_of(tensor):
    """The mask that a tensor carries, or None. `_keras_mask`: an attribute."""
    return get_keras_mask(tensor)


def set_mask(tensor, mask):
    """Lets a tensor carry a mask; see `mask_of`."""
    set_keras_mask(tensor, mask)


def forget_losses(layer, losses):
    """Lets no layer claim losses that were collected inside its call.

    `_loss_ids`: layers know their losses by `id`, which another tensor may
    have later.
    """
    for part in sublayers(layer):
        part._loss_ids.difference_update(map(id, losses))


def takes_inputs_as_they_are(layer):
    """Lets a layer that only calls another one leave its inputs alone.

    `_convert_input_args`: Keras casts floats to the layer's dtype policy.
    """
    layer._convert_input_args = False
    layer._allow_non_tensor_positional_args = True


def loss_metrics(model):
    """Running losses of the outputs of a model that has several.

    `_compile_loss`: `model.metrics` does not say which of them these are.
    """
    return list(getattr(model._compile_loss, "metrics", None) or [])


def own_metrics(model):
    """Metrics that a model made itself, not those of `compile`.

    `_metrics`: `model.metrics` has both, and the running loss.
    """
    return list(model._metrics)


def reseed(generator, words):
    """Sets the state of a `SeedGenerator` to two 32-bit words.

    JAX and TensorFlow hash both words at every draw. Keras on PyTorch adds
    the two, so that different generators can draw the same numbers. There we
    let `next` hash both words into one and return 0 as the other.
    `_initial_seed`: without it, dropout on PyTorch draws from PyTorch's global
    generator.
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
    """The running mean that the logs report as `loss`.

    `_loss_tracker`: a custom training step must update it, and
    `model.metrics` does not say which of its entries it is.
    """
    return model._loss_tracker


class Losses(MetricsList):
    """Running means by name, which callbacks know to be better if lower.

    `MetricsList`, `_direction`: EarlyStopping and ReduceLROnPlateau look for
    the direction of a monitored metric there, and refuse others without
    `mode`.

    Args:
        names: list of strings.
        name: string.
    """

    def __init__(self, names, name):
        super().__init__([keras.metrics.Mean(name=n) for n in names], name)
        for metric in self.metrics:
            metric._direction = "down"

    def result(self):
        return self.get_result()


def compile_metrics(model):
    """The metrics given to `compile`, as one object, or None.

    `_compile_metrics`: Keras cannot report these metrics before their first
    update, and no public name tells whether there was one.
    """
    return model._compile_metrics


def iterations(optimizer):
    """The variable that counts an optimizer's steps.

    `_iterations`: while a step is compiled on JAX, the public `iterations` is
    a copy, and with gradient accumulation it counts fewer steps.
    """
    return optimizer._iterations


def trainable_variables(optimizer):
    """The variables that an optimizer was built with, in its own order.

    `_trainable_variables`: `stateless_apply` needs gradients in that order.
    """
    return optimizer._trainable_variables


def set_trainable_variables(optimizer, variables):
    """Adds to the variables of an optimizer that builds no state itself."""
    optimizer._trainable_variables.extend(variables)


def schedule(optimizer):
    """The learning rate as it was given, a variable or a schedule.

    `_learning_rate`: the public `learning_rate` is the present step's value.
    """
    return optimizer._learning_rate


def set_schedule(optimizer, rate):
    """Replaces an optimizer's `LearningRateSchedule` by another one."""
    optimizer._learning_rate = rate


class JoinedAverages:
    """Shows an optimizer's parts to callbacks as one optimizer.

    A mix-in. `_model_variables_moving_average`: SwapEMAWeights reads it, in
    the order of the variables that the optimizer was built with.
    """

    @property
    def _model_variables_moving_average(self):
        averages = {}
        for part in self.parts:
            found = weight_averages(part)
            pairs = zip(trainable_variables(part), found, strict=False)
            averages.update((id(v), average) for v, average in pairs)
        if not averages:
            raise AttributeError("`use_ema` is off.")
        return [averages[id(v)] for v in trainable_variables(self)]


def weight_averages(optimizer):
    """The optimizer's moving averages of weights (`use_ema=True`), or []."""
    return getattr(optimizer, "_model_variables_moving_average", [])


def copy_exclusions(source, target):
    """Copies what `exclude_from_weight_decay` has set from one optimizer.

    The optimizer's config does not hold these settings.
    """
    names = "_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"
    for name in names:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
    target._exclude_from_weight_decay_cache = {}  # of answers so far


def initial_epoch(model):
    """Epoch that BackupAndRestore continues with, or None for a fresh run.

    `_initial_epoch`: Keras tells nowhere else that a run was resumed.
    """
    return model._initial_epoch


def data_adapter(x, shuffle=False, class_weight=None):
    """Keras's own adapter of a dataset, as `fit` would make it."""
    return get_data_adapter(x, shuffle=shuffle, class_weight=class_weight)


class KeptState:
    """Lets an error in the first batch of an epoch lose no state on JAX.

    A mix-in that stands before `keras.Model`. `_get_jax_state`: Keras takes
    the variables' values out of the model for the epoch and holds them in a
    local variable until the first batch is over.
    """

    def _get_jax_state(self, purge_model_variables=False, **wanted):
        state = super()._get_jax_state(
            purge_model_variables=purge_model_variables, **wanted
        )
        if purge_model_variables:
            names = [name for name, value in wanted.items() if value]
            self._jax_state = dict(zip(names, state, strict=True))
        return state


def said(error):
    """What an error in a layer's call says, in one line.

    Keras puts it between lines about the layer, in bold.
    """
    bold = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    text = bold[1] if bold else str(error)
    return " ".join(text.split()).rstrip(".")


def symbolic_build(model, data):
    """Builds optimizer and metrics for a batch, as `fit` does on JAX."""
    model._symbolic_build(data_batch=data)


def epoch_state(model):
    """The state lists of the current JAX epoch by name, {} outside of one."""
    return getattr(model, "_jax_state", None) or {}


def accept_optionals(model, step):
    """Lets a TensorFlow step take batches that are `tf.Optional`."""
    return model._autoconvert_optionals(step)


def inside_fit(arguments):
    """True for the keywords of an `evaluate` that `fit` itself calls."""
    return bool(arguments.get("_use_cached_eval_dataset"))


def mark_called(model):
    """Allows the export of a built model that was never called.

    `_called`: `export` refuses a model whose `__call__` never ran, although
    `build` has made all that it needs.
    """
    model._called = True


def layers_were_replaced(model):
    """Drops functions that were compiled for a model's former variables.

    `_post_quantize`: on PyTorch it lists the module's parameters anew.
    """
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    model._post_quantize(None)
