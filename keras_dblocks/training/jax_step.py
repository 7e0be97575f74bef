"""Gradient step on JAX: what is handed over and the step, jitted apart.

Keras keeps all state in four lists during an epoch. Only the active block's
entries go through the donated step; the other entries are left alone. A block's
weights, state and noise levels are arguments, so that blocks of the same layers
are one program, which is compiled once; so is the pass through an earlier
block, of which a hand-over takes as many as there are.
"""

import functools
import hashlib

import jax
import keras

from keras_dblocks.samplers import pass_on
from keras_dblocks.training.jax_offload_step import OffloadedStep


def make_train_function(model):
    """The function Keras's JAX trainer calls with its state and a batch."""
    steps, programs = {}, {}

    def train_function(state, iterator):
        state = [list(part) for part in state]
        logs = None
        for _ in range(model.steps_per_execution):
            try:
                data = next(iterator)
            except StopIteration:
                if logs is None:
                    raise
                break
            try:
                model.check_batch(data)
            except ValueError:
                _give_back(model, state)
                raise
            index = model.next_block(lambda: _read_step(model, state[2]))
            if index not in steps:
                step = BlockStep(model, index, programs)
                steps[index] = OffloadedStep(step) if model.offload else step
            logs = model.merge_logs(steps[index](state, data))
        return logs, tuple(state)

    return train_function


def _give_back(model, state):
    # Keras took the state out of the model for the epoch; `fit` puts back
    # what lies here when it is left by an error.
    names = (
        "trainable_variables",
        "non_trainable_variables",
        "optimizer_variables",
        "metrics_variables",
    )
    model._jax_state = dict(zip(names, state, strict=True))


def _read_step(model, optimizer_values):
    position = {id(v): i for i, v in enumerate(model.optimizer.variables)}
    blocks = model.optimizer.optimizers[: model.num_blocks]
    positions = [position[id(o._iterations)] for o in blocks]
    return sum(int(optimizer_values[i]) for i in positions)


class BlockStep:
    """One block's step, and where its variables lie in the lists.

    Args:
        model: `DiffusionBlocks`.
        index: int. The block.
        programs: dict of the programs that other blocks have, to be shared.
    """

    def __init__(self, model, index, programs=None):
        self.model = model
        self.index = index
        self.optimizer = model.block_optimizer(index)
        block = model.blocks[index]
        self.groups = (
            # In the optimizer's order, which `stateless_apply` goes by.
            list(self.optimizer._trainable_variables),
            block.non_trainable_variables,
            self.optimizer.variables,
            [v for t in model.loss_trackers(index) for v in t.variables],
        )
        # Which of the lists each variable of the model lies in, and where.
        self.places = places = {
            id(v): (kind, i)
            for kind, variables in enumerate(state_variables(model))
            for i, v in enumerate(variables)
        }
        self.active_places = [[places[id(v)] for v in g] for g in self.groups]
        self.bounds = jax.numpy.array(block.level_bounds(), "float32")
        self.begin, self.step = self._begin, self._step
        programs = {} if programs is None else programs
        jitted = model.jit_compile and not model.run_eagerly
        if jitted:
            self.begin = jax.jit(self.begin)
            self.step = SharedProgram(compiled(self.step), programs)
        # Earlier blocks are read by the hand-over, never written.
        self.passes = []
        for earlier in model.blocks[:index] if model.on_policy else []:
            program = functools.partial(_pass_on, earlier)
            if jitted:
                program = SharedProgram(jax.jit(program), programs)
                # Looked up once, not by every later block.
                program = programs.setdefault(earlier.index, program)
            levels = model.pass_levels(earlier.index)
            levels = jax.numpy.array(levels, "float32")
            read = [places[id(v)] for v in earlier.variables]
            self.passes.append((read, levels, program))

    def part_of(self, state):
        """What the step changes, of the state's lists."""
        return tuple(_at(places, state) for places in self.active_places)

    def __call__(self, state, data):
        active, handed = self.part_of(state), None
        if self.model.on_policy:
            handed, part, rest = self.begin(active[:2], data)
            active = active[0], rest, *active[2:]
            for places, levels, program in self.passes if handed else ():
                handed = program(_at(places, state), handed[0], levels, part)
        logs, active = self.step(active, self.bounds, handed, data)
        for places, new in zip(self.active_places, active, strict=True):
            for (kind, i), value in zip(places, new, strict=True):
                state[kind][i] = value
        names = (t.name for t in self.model.loss_trackers(self.index))
        return dict(zip(names, logs, strict=True))

    def lowered(self, state, data):
        """The programs of a step, not yet compiled."""
        active, handed, programs = self.part_of(state), None, []
        if self.model.on_policy:
            programs = [self.begin.lower(active[:2], data)]
            handed, part, _ = jax.eval_shape(self.begin, active[:2], data)
            for places, levels, program in self.passes if handed else ():
                arguments = _at(places, state), handed[0], levels, part
                programs.append(program.function.lower(*arguments))
        lower = self.step.function.lower
        return [*programs, lower(active, self.bounds, handed, data)]

    def _begin(self, active, data):
        """Start of a hand-over, its condition, the block's seeds after."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        first = None
        with _scope(self.groups[:2], active) as scope:
            part = self.model.share_handed_over(x, y)
            if part is not None:
                first = self.model.first_state(self.index, part, True)
        return first, part, _values(scope, self.groups[1])

    def _step(self, active, bounds, handed, data):
        model, index = self.model, self.index
        trainable, rest, optimizer, metrics = active
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss_fn(trainable, rest):
            with _scope(self.groups[:2], (trainable, rest)) as scope:
                loss = model.training_loss(
                    index, x, y, sample_weight, handed, bounds
                )
            return loss, _values(scope, self.groups[1])

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = gradient(trainable, rest)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, grads, trainable
        )
        with _scope(self.groups[3:], [metrics]) as scope:
            logs = list(model.track_loss(index, loss, x).values())
        metrics = _values(scope, self.groups[3])
        return logs, (trainable, rest, optimizer, metrics)


class SharedProgram:
    """A jitted function, or another block's if both are the same program.

    Args:
        function: jitted; its first argument is the weights.
        programs: dict of those that there are, changed in place.
    """

    def __init__(self, function, programs):
        self.function = function
        self.programs = programs
        self.chosen = {}  # of them, by the shapes of all but the weights

    def __call__(self, weights, *arguments):
        leaves = jax.tree.leaves(arguments)
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        if shapes not in self.chosen:
            text = self.function.lower(weights, *arguments).as_text()
            key = hashlib.sha256(text.encode()).digest()
            self.chosen[shapes] = self.programs.setdefault(key, self.function)
        return self.chosen[shapes](weights, *arguments)


def _pass_on(block, values, noisy, levels, condition):
    with _scope([block.variables], [values]):
        return pass_on(block, noisy, levels, condition)


def state_variables(model):
    """Variables in the four lists that Keras's JAX trainer holds."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def compiled(step):
    """`step` compiled, its first argument donated; remat in it is kept.

    XLA's CPU compiler drops the barriers of `jax.checkpoint` and then finds the
    same values in the forward pass: nothing would be saved. Keras's own step
    is helped by `XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander`.
    """
    options = None
    if jax.default_backend() == "cpu":
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return jax.jit(step, donate_argnums=0, compiler_options=options)


def _scope(groups, values):
    pairs = zip(groups, values, strict=True)
    known = [known for pair in pairs for known in zip(*pair, strict=True)]
    return keras.StatelessScope(state_mapping=known)


def _at(places, state):
    return [state[kind][i] for kind, i in places]


def _values(scope, variables):
    return [scope.get_current_value(v) for v in variables]
