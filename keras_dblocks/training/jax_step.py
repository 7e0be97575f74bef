"""Gradient step on JAX, where hand-over and step are jitted separately.

Keras keeps all state in four lists during an epoch. Only the active block's
entries are passed to the step, which donates them; other entries are left
alone. A block's weights, state and constants are arguments, so that blocks
with the same layers share one program, which is compiled once. The same holds
for the pass through an earlier block, which a hand-over runs for each of them.
"""

import functools

import jax
import keras

from keras_dblocks import compat
from keras_dblocks.training.block_step import BlockStep, next_batches, unpack
from keras_dblocks.training.jax_offload_step import OffloadedStep
from keras_dblocks.training.trainable_block import run_hand_over


def make_train_function(trainer):
    """The function that Keras's JAX trainer calls with state and iterator."""
    trainer.programs = Programs()

    def train_function(state, iterator):
        state = [list(part) for part in state]
        for data in next_batches(iterator, trainer.steps_per_execution):
            read = functools.partial(_read_step, trainer, state[2])
            logs = trainer.train_one(data, read, state)
        return logs, tuple(state)

    return train_function


def assign(trainer, pairs, state):
    """See `block_step.assign`; during an epoch the lists hold the values."""
    places = {
        id(v): (kind, i)
        for kind, variables in enumerate(state_variables(trainer))
        for i, v in enumerate(variables)
    }
    for variable, other in pairs:
        (kind, i), (its_kind, its_i) = places[id(variable)], places[id(other)]
        # A copy: a step donates the buffers of the block that it trains.
        state[kind][i] = jax.numpy.copy(state[its_kind][its_i])


def make_step(trainer, index, as_only_block=False):
    """The step of one block, a function of a batch and the four lists."""
    step = JaxStep(trainer, index, trainer.programs, as_only_block)
    return OffloadedStep(step) if trainer.offload else step


def _read_step(trainer, optimizer_values):
    position = {id(v): i for i, v in enumerate(trainer.optimizer.variables)}
    counts = [position[id(v)] for v in trainer.step_counts()]
    return sum(int(optimizer_values[i]) for i in counts)


class JaxStep(BlockStep):
    """A `BlockStep` on the four lists of state of Keras's JAX trainer.

    Args:
        trainer: `BlockTrainer`.
        index: int. Number of the block.
        programs: `Programs` to be shared with other blocks, or None.
        as_only_block: see `BlockStep`.
    """

    def __init__(self, trainer, index, programs=None, as_only_block=False):
        super().__init__(trainer, index, as_only_block)
        block = self.block
        self.groups = (
            # In the optimizer's order, which `stateless_apply` expects.
            list(compat.trainable_variables(self.optimizer)),
            block.non_trainable_variables,
            self.optimizer.variables,
            [v for tracker in self.trackers for v in tracker.variables],
        )
        changed = {id(v) for group in self.groups[:2] for v in group}
        self.reads = [v for v in block.variables if id(v) not in changed]
        # The list that holds each variable of the model, and its position.
        self.places = {
            id(v): (kind, i)
            for kind, variables in enumerate(state_variables(trainer))
            for i, v in enumerate(variables)
        }
        self.active_places = [self.places_of(group) for group in self.groups]
        self.read_places = self.places_of(self.reads)
        self.constants = as_arrays(self.loss_constants)
        first = trainer.blocks[0].hand_over_constants()
        self.first_constants = as_arrays(first)
        programs = programs or Programs()
        self.jitted = trainer.jit_compile and not trainer.run_eagerly
        self.begin_program = (
            jax.jit(self._begin) if self.jitted else self._begin
        )
        self.step_program = self._step
        if self.jitted:
            self.step_program = SharedProgram(
                compiled(self._step), programs.steps
            )
        # The hand-over reads the earlier blocks but never writes them.
        self.passes = {
            id(earlier): self._pass(earlier, programs)
            for earlier in self.earlier
        }

    def places_of(self, variables):
        """List number and position of each of the variables, as pairs."""
        return [self.places[id(v)] for v in variables]

    def _pass(self, earlier, programs):
        program = functools.partial(_pass_on, earlier)
        if self.jitted:
            # The pass is the same for every later block, so it is kept.
            if id(earlier) not in programs.of_block:
                programs.of_block[id(earlier)] = SharedProgram(
                    jax.jit(program, keep_unused=True), programs.passes
                )
            program = programs.of_block[id(earlier)]
        constants = as_arrays(earlier.hand_over_constants())
        return program, self.places_of(earlier.variables), constants

    def part_of(self, state):
        """The entries of the state that the step changes."""
        return tuple(_at(places, state) for places in self.active_places)

    def __call__(self, data, state, handed=None):
        if handed is None:
            handed = self.hand_over(data, state)
        reads = _at(self.read_places, state)
        arguments = reads, self.constants, handed, unpack(data)
        logs, active = self.step_program(self.part_of(state), *arguments)
        for places, new in zip(self.active_places, active, strict=True):
            _put(places, state, new)
        return dict(zip(self.names, logs, strict=True))

    def hand_over(self, data, state):
        """State that the earlier blocks hand over to this one, or None."""
        if not self.share:
            return None
        started, rest = self.begin_program(
            self.part_of(state)[:2],
            _at(self.read_places, state),
            self.first_constants,
            unpack(data),
        )
        _put(self.active_places[1], state, rest)

        def pass_on(earlier, handed, context):
            program, places, constants = self.passes[id(earlier)]
            return program(_at(places, state), handed, context, constants)

        return run_hand_over(
            self.trainer.blocks, self.index, lambda: started, pass_on
        )

    def values(self, variables, state):
        """What the variables are during an epoch (list of arrays)."""
        return _at(self.places_of(variables), state)

    def lowered(self, data, state):
        """The programs of a step, lowered but not compiled."""
        data = unpack(data)
        active, handed, programs = self.part_of(state), None, []
        reads = _at(self.read_places, state)
        if self.share:
            arguments = active[:2], reads, self.first_constants, data
            programs = [self.begin_program.lower(*arguments)]
            started, _ = jax.eval_shape(self.begin_program, *arguments)

            def pass_on(earlier, handed, context):
                program, places, constants = self.passes[id(earlier)]
                arguments = _at(places, state), handed, context, constants
                programs.append(program.function.lower(*arguments))
                return jax.eval_shape(program.function, *arguments)

            handed = run_hand_over(
                self.trainer.blocks, self.index, lambda: started, pass_on
            )
        lower = self.step_program.function.lower
        return [*programs, lower(active, reads, self.constants, handed, data)]

    def _begin(self, active, reads, constants, data):
        known = [*self.groups[:2], self.reads]
        with _scope(known, (*active, reads)) as scope:
            started = self.begin(data, constants)
        return started, _values(scope, self.groups[1])

    def _step(self, active, reads, constants, handed, data):
        trainable, rest, optimizer, metrics = active
        known = [*self.groups[:2], self.reads]

        def loss_fn(trainable, rest):
            with _scope(known, (trainable, rest, reads)) as scope:
                loss = self.loss(data, handed, constants)
            return loss, _values(scope, self.groups[1])

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = gradient(trainable, rest)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, grads, trainable
        )
        groups = self.groups[1], self.groups[3]
        with _scope(groups, (rest, metrics)) as scope:
            logs = self.track(loss, data)
        # Blocks that share a program differ in these names.
        self.names, logs = list(logs), list(logs.values())
        metrics = _values(scope, self.groups[3])
        return logs, (trainable, rest, optimizer, metrics)


class Programs:
    """Compiled programs that the blocks of a model share.

    Attributes:
        steps, passes: see `known` of `SharedProgram`, for training steps and
            for passes through a block.
        of_block: dict from a block's `id` to its pass.
    """

    def __init__(self):
        self.steps, self.passes, self.of_block = {}, {}, {}


class SharedProgram:
    """A jitted function, or another block's with the same program.

    The function must be jitted with `keep_unused=True`. The text of a program
    otherwise says nothing of the weights that it does not read, and blocks that
    read different ones of theirs would have the same.

    Args:
        function: jitted function whose first argument is the weights.
        known: dict from a program's text, and the nest of its arguments, to
            its function, changed in place.
    """

    def __init__(self, function, known):
        self.function = function
        self.known = known
        self.chosen = {}  # functions by the shapes of all but the weights

    def __call__(self, weights, *arguments):
        leaves = jax.tree.leaves(arguments)
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        if shapes not in self.chosen:
            text = self.function.lower(weights, *arguments).as_text()
            program = text, jax.tree.structure((weights, *arguments))
            self.chosen[shapes] = self.known.setdefault(program, self.function)
        return self.chosen[shapes](weights, *arguments)


def _pass_on(block, values, state, context, constants):
    with _scope([block.variables], [values]):
        return block.pass_on(state, context, constants)


def state_variables(model):
    """Variables in the four lists that Keras's JAX trainer holds."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def as_arrays(constants):
    """A tree of numpy numbers and arrays as what a program takes."""
    return jax.tree.map(jax.numpy.asarray, constants)


def compiled(step):
    """Compiles `step`, donates its first argument, and keeps remat effective.

    XLA's CPU compiler removes the barriers of `jax.checkpoint` and then reuses
    the values of the forward pass, so that no memory would be saved. For
    Keras's own step, set
    `XLA_FLAGS=--xla_disable_hlo_passes=cse_barrier_expander`.
    """
    options = None
    if jax.default_backend() == "cpu":
        options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return jax.jit(
        step, donate_argnums=0, keep_unused=True, compiler_options=options
    )


def _scope(groups, values):
    pairs = zip(groups, values, strict=True)
    known = [known for pair in pairs for known in zip(*pair, strict=True)]
    return keras.StatelessScope(state_mapping=known)


def _at(places, state):
    return [state[kind][i] for kind, i in places]


def _put(places, state, values):
    for (kind, i), value in zip(places, values, strict=True):
        state[kind][i] = value


def _values(scope, variables):
    return [scope.get_current_value(v) for v in variables]
