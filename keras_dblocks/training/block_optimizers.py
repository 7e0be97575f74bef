"""One optimizer for each block, and one for the shared variables."""

import keras
from keras import ops

from keras_dblocks import compat


@keras.saving.register_keras_serializable(package="keras_dblocks")
class BlockSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule in steps of one block, for parts trained at every step.

    Args:
        schedule: `LearningRateSchedule` written for end-to-end training.
        num_blocks: int. Steps of the whole model per step of one block.
    """

    def __init__(self, schedule, num_blocks):
        self.schedule = schedule
        self.num_blocks = num_blocks

    def __call__(self, step):
        return self.schedule(ops.floor_divide(step, self.num_blocks))

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "num_blocks": self.num_blocks}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["num_blocks"])


@keras.saving.register_keras_serializable(package="keras_dblocks")
class WholeSchedule(BlockSchedule):
    """A schedule in steps of the whole model, for one block's optimizer.

    Args:
        schedule: `LearningRateSchedule` written for all steps of `fit`.
        num_blocks: int. Steps of the whole model per step of one block.
    """

    def __call__(self, step):
        return self.schedule(step * self.num_blocks)


class BlockOptimizers(compat.JoinedAverages, keras.optimizers.Optimizer):
    """A set of optimizers, each called only with its own variables.

    Adam's moments, bias correction, weight decay and the schedule of a block
    therefore advance only when that block is trained. `global_clipnorm` is
    applied to all gradients of one step together, as by a single optimizer.

    Callbacks see it as one optimizer. Its `learning_rate` is that of all.

    Args:
        optimizers: list of `keras.optimizers.Optimizer`, kept as `parts`.
        groups: list of lists of variables, one list for each optimizer.
        global_clipnorm: float or None.
        num_blocks: int, the number of optimizers of which one takes each step,
            before those of what is shared. None for all.
    """

    def __init__(
        self, optimizers, groups, global_clipnorm=None, num_blocks=None
    ):
        super().__init__(learning_rate=0.0, name="block_optimizers")
        self.joint_clipnorm = global_clipnorm
        self.num_blocks = num_blocks
        self.parts = list(optimizers)
        self.changes = 0  # of settings that a compiled step has built in
        self.owner = {}
        for i, (optimizer, group) in enumerate(
            zip(optimizers, groups, strict=True)
        ):
            self.owner.update({id(variable): i for variable in group})
            compat.set_trainable_variables(self, group)
            if not optimizer.built:
                optimizer.build(group)
        self.built = True

    @property
    def variables(self):
        return [v for o in self.parts for v in o.variables]

    @property
    def iterations(self):
        """Steps of all blocks together."""
        return sum(part.iterations for part in self.parts[: self.num_blocks])

    @property
    def learning_rate(self):
        return self.parts[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        for optimizer in self.parts:
            optimizer.learning_rate = value

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """As in Keras, for each block's optimizer, also after `compile`."""
        fresh = keras.optimizers.SGD()
        fresh.exclude_from_weight_decay(var_list, var_names)
        for part in self.parts:
            compat.copy_exclusions(fresh, part)
        self.changes += 1

    def build(self, variables=None):
        """Does nothing, since the constructor has built all optimizers.

        `fit` calls it with all variables.
        """

    def apply(self, grads, trainable_variables=None):
        variables = trainable_variables or compat.trainable_variables(self)
        pairs = [
            (g, v)
            for g, v in zip(grads, variables, strict=True)
            if g is not None
        ]
        if self.joint_clipnorm is not None:
            pairs = _clip(pairs, self.joint_clipnorm)
        for i, optimizer in enumerate(self.parts):
            own = [(g, v) for g, v in pairs if self.owner[id(v)] == i]
            if own:
                optimizer.apply(
                    *(list(column) for column in zip(*own, strict=True))
                )

    def finalize_variable_values(self, var_list):
        for optimizer in self.parts:
            variables = compat.trainable_variables(optimizer)
            optimizer.finalize_variable_values(variables)
            for average in compat.weight_averages(optimizer):
                # In Keras 3.15 weight and average are then one JAX array,
                # which `predict` donates: "Array has been deleted".
                average.assign(ops.convert_to_numpy(average).copy())

    def save_own_variables(self, store):
        """Saves nothing, since `parts` are saved as children."""

    def load_own_variables(self, store):
        """Loads nothing; see `save_own_variables`."""


def _clip(pairs, norm):
    total = ops.sqrt(
        sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g, _ in pairs)
    )
    scale = norm / ops.maximum(total, norm)
    return [(g * ops.cast(scale, g.dtype), v) for g, v in pairs]


def clone(optimizer, joint_clip=False):
    """A fresh optimizer with the settings of `optimizer`.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        joint_clip: bool. True leaves `global_clipnorm` to the caller.
    """
    fresh = type(optimizer).from_config(optimizer.get_config())
    if joint_clip:
        fresh.global_clipnorm = None
    compat.copy_exclusions(optimizer, fresh)
    return fresh
