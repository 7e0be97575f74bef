"""Gradient step on JAX: what is handed over and the step, jitted apart.

Keras keeps all state in four lists during an epoch. Only the active block's
entries go through the donated step; the other entries are left alone. A block's
weights, state and noise range are arguments, so that blocks of the same layers
are one program, which is compiled once.
"""

import hashlib

import jax
import keras

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
        programs: dict of the steps that other blocks have, to be shared.
    """

    def __init__(self, model, index, programs=None):
        self.model = model
        self.index = index
        self.programs = {} if programs is None else programs
        self.chosen = {}  # of them, by the shapes of a batch
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
        # Earlier blocks are read by the hand-over, never written.
        active = {id(v) for group in self.groups for v in group}
        earlier = model.blocks[:index] if model.on_policy else []
        frozen = {id(v): v for b in earlier for v in b.variables}
        self.frozen = [v for k, v in frozen.items() if k not in active]
        self.frozen_places = [places[id(v)] for v in self.frozen]
        self.bounds = jax.numpy.array(block.level_bounds(), "float32")
        self.hand_over, self.step = self._hand_over, self._step
        self.jitted = model.jit_compile and not model.run_eagerly
        if self.jitted:
            self.hand_over = jax.jit(self._hand_over)
            self.step = compiled(self._step)

    def part_of(self, state):
        """Of the state's lists: what the step changes, and what it reads."""
        *active, frozen = (
            [state[kind][i] for kind, i in places]
            for places in (*self.active_places, self.frozen_places)
        )
        return tuple(active), frozen

    def __call__(self, state, data):
        active, frozen = self.part_of(state)
        handed = None
        if self.model.on_policy:
            handed, rest = self.hand_over(active[:2], frozen, data)
            active = active[0], rest, *active[2:]
        arguments = active, self.bounds, handed, data
        logs, active = self._program(arguments)(*arguments)
        for places, new in zip(self.active_places, active, strict=True):
            for (kind, i), value in zip(places, new, strict=True):
                state[kind][i] = value
        names = (t.name for t in self.model.loss_trackers(self.index))
        return dict(zip(names, logs, strict=True))

    def _program(self, arguments):
        """Another block's step if it is the same program, or our own."""
        if not self.jitted:
            return self.step
        data = jax.tree.leaves(arguments[1:])
        shapes = tuple((a.shape, str(a.dtype)) for a in data)
        if shapes not in self.chosen:
            text = self.step.lower(*arguments).as_text()
            key = hashlib.sha256(text.encode()).digest()
            self.chosen[shapes] = self.programs.setdefault(key, self.step)
        return self.chosen[shapes]

    def lowered(self, state, data):
        """The programs of a step, not yet compiled."""
        active, frozen = self.part_of(state)
        arguments = active[:2], frozen, data
        handed, programs = None, []
        if self.model.on_policy:
            handed, _ = jax.eval_shape(self.hand_over, *arguments)
            programs = [self.hand_over.lower(*arguments)]
        return [*programs, self.step.lower(active, self.bounds, handed, data)]

    def _hand_over(self, active, frozen, data):
        """What the earlier blocks hand over, and the block's seeds after."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        known = list(zip(self.frozen, frozen, strict=True))
        for group, values in zip(self.groups[:2], active, strict=True):
            known += list(zip(group, values, strict=True))
        with keras.StatelessScope(state_mapping=known) as scope:
            handed = self.model.hand_over(self.index, x, y)
        return handed, _values(scope, self.groups[1])

    def _step(self, active, bounds, handed, data):
        model, index = self.model, self.index
        trainable, rest, optimizer, metrics = active
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss_fn(trainable, rest):
            known = list(zip(self.groups[0], trainable, strict=True))
            known += list(zip(self.groups[1], rest, strict=True))
            with keras.StatelessScope(state_mapping=known) as scope:
                loss = model.training_loss(
                    index, x, y, sample_weight, handed, bounds
                )
            return loss, _values(scope, self.groups[1])

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = gradient(trainable, rest)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, grads, trainable
        )
        known = list(zip(self.groups[3], metrics, strict=True))
        with keras.StatelessScope(state_mapping=known) as scope:
            logs = list(model.track_loss(index, loss, x).values())
        metrics = _values(scope, self.groups[3])
        return logs, (trainable, rest, optimizer, metrics)


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


def _values(scope, variables):
    return [scope.get_current_value(v) for v in variables]
