"""A block of an existing network: its weights, and its step."""

import abc

import keras
from keras import ops

from keras_dblocks import compat
from keras_dblocks.rematerialization import rematerialized_calls
from keras_dblocks.training.trainable_block import TrainableBlock


class CutBlock(TrainableBlock):
    """Some of a network's weights, which are trained by themselves.

    Args:
        network: `CutModel`.
        index: int.
        units: list of `Unit`.
    """

    losses = ()  # those of the network's layers are in its loss

    def __init__(self, network, index, units):
        self.network = network
        self.index = index
        self.units = units

    # The variables are looked up anew each time: LoRA makes and freezes some.

    @property
    def weights(self):
        """Variables of the block's layers that no earlier block has."""
        return self.network.weights_of(self.index)

    @property
    def variables(self):
        network = self.network
        return [*network.model.variables, *network.own_metric_variables()]

    @property
    def trainable_variables(self):
        return [v for v in self.weights if v.trainable]

    @property
    def non_trainable_variables(self):
        """The block's statistics, all random states, and the metrics."""
        network = self.network
        own = [v for v in self.weights if not v.trainable]
        states = [g.state for g in compat.seed_generators([network.model])]
        metrics = network.own_metric_variables()
        return list({id(v): v for v in (*own, *states, *metrics)}.values())

    def training_loss(self, data, handed, constants):
        network = self.network
        own = {id(v) for v in self.trainable_variables}
        scope = keras.StatelessScope(
            state_mapping=[
                (v, v.value if id(v) in own else ops.stop_gradient(v.value))
                for v in self.variables
            ],
            collect_losses=True,
        )
        changing = self.non_trainable_variables
        before = [scope.get_current_value(v) for v in changing]
        # Inside, statistics of all layers move; outside, this block's alone.
        layers = network.layers_to_remat(self.index) if network.remat else []
        with scope, rematerialized_calls(layers):
            loss = self.batch_loss(data, handed)
        for variable, old in zip(changing, before, strict=True):
            value = scope.get_current_value(variable)
            if value is not old:
                variable.assign(ops.stop_gradient(value))
        return ops.cast(loss, "float32")

    @abc.abstractmethod
    def batch_loss(self, data, handed):
        """What `training_loss` says, of the values that variables then have."""

    def results(self):
        metrics = compat.compile_metrics(self.network)
        found = {} if metrics is None else metrics.result()
        losses = compat.loss_metrics(self.network)
        return found | {metric.name: metric.result() for metric in losses}

    def batch_weight(self, data):
        leaves = keras.tree.flatten(data[0])
        return ops.shape(next(leaf for leaf in leaves if leaf is not None))[0]

    def was_trained(self):
        """False: a network that is cut is taken as it is."""
        return False

    def loss_constants(self, as_only_block=False):
        return ()

    def hand_over_constants(self):
        return ()

    def copied_variables(self):
        return self.weights
