"""Gradient step on JAX: one jitted function per block.

Keras keeps all state in four lists during an epoch. Only the active block's
entries go through the donated step; the other entries are left alone.
"""

import jax
import keras

from keras_dblocks.training.jax_offload_step import OffloadedStep


def make_train_function(model):
    """The function Keras's JAX trainer calls with its state and a batch."""
    steps = {}

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
                step = BlockStep(model, index)
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
    """One block's compiled step, and where its variables lie in the lists."""

    def __init__(self, model, index):
        self.model = model
        self.index = index
        self.optimizer = model.block_optimizer(index)
        block = model.blocks[index]
        self.groups = (
            # In the optimizer's order, which `stateless_apply` goes by.
            list(self.optimizer._trainable_variables),
            block.non_trainable_variables,
            self.optimizer.variables,
            [
                v
                for metric in (model._loss_tracker, model.block_losses[index])
                for v in metric.variables
            ],
        )
        self.everything = everything = state_variables(model)
        self.positions = [
            _positions(group, all_of_kind)
            for group, all_of_kind in zip(self.groups, everything, strict=True)
        ]
        # Earlier blocks are read by the hand-over, never written.
        active = {id(v) for group in self.groups for v in group}
        earlier = model.blocks[:index] if model.on_policy else []
        frozen = {id(v): v for b in earlier for v in b.variables}
        self.frozen = [v for k, v in frozen.items() if k not in active]
        self.frozen_positions = [
            next(
                (kind, i)
                for kind in (0, 1)
                for i, other in enumerate(everything[kind])
                if other is variable
            )
            for variable in self.frozen
        ]
        self.step = self._step
        if model.jit_compile and not model.run_eagerly:
            self.step = compiled(self._step)

    def part_of(self, state):
        """Of the state's lists: what the step changes, and what it reads."""
        active = tuple(
            [values[i] for i in positions]
            for values, positions in zip(state, self.positions, strict=True)
        )
        frozen = [state[kind][i] for kind, i in self.frozen_positions]
        return active, frozen

    def __call__(self, state, data):
        logs, active = self.step(*self.part_of(state), data)
        for values, positions, new in zip(
            state, self.positions, active, strict=True
        ):
            for i, value in zip(positions, new, strict=True):
                values[i] = value
        return logs

    def _step(self, active, frozen, data):
        model, index = self.model, self.index
        trainable, rest, optimizer, metrics = active
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        mapping = list(zip(self.frozen, frozen, strict=True))
        known = mapping + list(zip(self.groups[0], trainable, strict=True))
        known += list(zip(self.groups[1], rest, strict=True))
        with keras.StatelessScope(state_mapping=known) as scope:
            handed = model.hand_over(index, x, y)
        rest = _values(scope, self.groups[1])

        def loss_fn(trainable, rest):
            known = mapping + list(zip(self.groups[0], trainable, strict=True))
            known += list(zip(self.groups[1], rest, strict=True))
            with keras.StatelessScope(state_mapping=known) as scope:
                loss = model.training_loss(index, x, y, sample_weight, handed)
            return loss, _values(scope, self.groups[1])

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, rest), grads = gradient(trainable, rest)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, grads, trainable
        )
        known = list(zip(self.groups[3], metrics, strict=True))
        with keras.StatelessScope(state_mapping=known) as scope:
            logs = model.track_loss(index, loss, x)
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


def _positions(variables, everything):
    position = {id(v): i for i, v in enumerate(everything)}
    return [position[id(v)] for v in variables]


def _values(scope, variables):
    return [scope.get_current_value(v) for v in variables]
