"""A network that exists, each step of which computes its own loss."""

import warnings

from keras_dblocks import compat
from keras_dblocks.cutting.cut_block import CutBlock
from keras_dblocks.cutting.cut_model import CutModel
from keras_dblocks.cutting.units import units_of
from keras_dblocks.training.block_optimizers import WholeSchedule


class ExactBlock(CutBlock):
    """Some of a network's weights, with the exact gradient of its loss.

    A step runs the whole network. Only this block's weights have gradients
    and optimizer state, so what comes before the block keeps nothing for the
    backward pass (block coordinate descent).

    References:
     - [BAdam](https://arxiv.org/abs/2404.02827), Section 2
    """

    def batch_loss(self, data, handed):
        network = self.network

        def predict():
            return network(data[0], training=True)

        return network.training_loss(data, predict, network.head)

    # It is handed nothing.

    def begin_hand_over(self, data, share, constants, rows=None):
        return None

    def pass_on(self, state, context, constants):
        raise NotImplementedError


class ExactCut(CutModel):
    """`CutModel` whose blocks' loss is that of the whole network.

    References:
     - [BAdam](https://arxiv.org/abs/2404.02827)
    """

    block_class = ExactBlock
    default_on_policy = 0.0

    def __init__(self, model, division, seed=0):
        super().__init__(model, division, seed)
        self.__dict__["units"] = units_of(model)  # in the order of its calls
        self.finish()

    def compile(
        self,
        optimizer="adamw",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        block_order="shuffled",
        steps_per_visit=5,
        remat=False,
        **kwargs,
    ):
        """Configures training.

        Args:
            optimizer: name or `keras.optimizers.Optimizer`. Every block has
                one of its own with these settings. A schedule is written for
                all steps of `fit`; at its own step k a block has the learning
                rate of step B * k.
            loss, loss_weights, metrics, weighted_metrics: as in Keras. With
                no `loss`, it and the others of these that are not given are
                those the network was compiled with.
            block_order: `"shuffled"` (every block once in each round, in a
                new order), `"descending"` (the last block first),
                `"uniform"`, `"round_robin"`, a block or a list of weights.
            steps_per_visit: int. Consecutive steps of a block.
            remat: bool. True keeps of the network's repeated layers only
                their inputs, and computes them again in the backward pass.
            kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile` and
                `offload` of `BlockTrainer.compile`.

        Raises:
            ValueError: for values out of range, or a loss beside a
                `compute_loss` of the network's own. Without any loss, `fit`
                raises it.
        """
        for name in ("curriculum", "curriculum_steps", "store_hand_overs"):
            if kwargs.pop(name, None):
                raise ValueError(
                    "Each step of a network that was cut runs all of it. "
                    f"Received: {name}, which is for blocks with a loss of "
                    'their own. Leave it out, or use training="sequential".'
                )
        super().compile(
            optimizer,
            loss,
            loss_weights,
            metrics,
            weighted_metrics,
            remat,
            block_order=block_order,
            steps_per_visit=steps_per_visit,
            curriculum="sampled",
            **kwargs,
        )

    def layers_to_remat(self, index):
        """Composite layers from a block's first layer on (list).

        Those before all of the block's own have no backward pass.
        """
        own = {id(unit.layer) for unit in self.blocks[index].units}
        first = next(i for i, u in enumerate(self.units) if id(u.layer) in own)
        return [u.layer for u in self.units[first:] if u.is_composite]

    def own_schedule(self, schedule, block):
        return WholeSchedule(schedule, len(self.blocks_that_train()) or 1)

    def begin_curriculum(self, epochs, steps):
        """Called when `fit` begins: warns of blocks that will not train."""
        super().begin_curriculum(epochs, steps)
        if not epochs or not steps:
            return
        last = self.training_step() + epochs * steps
        idle = set(self.block_order.blocks)
        for step in range(0, last, self.block_order.steps_per_visit):
            idle.discard(self.block_order(step))
            if not idle:
                break
        if idle:
            warnings.warn(
                f"No turn comes for block {', '.join(map(str, sorted(idle)))} "
                f"in the {last} steps up to the end of this `fit`. Compile "
                "with fewer `steps_per_visit`, or train for longer.",
                stacklevel=2,
            )

    # All blocks have one loss, so that of a block by itself says nothing.
    block_losses = ()

    def loss_trackers(self, index):
        return (compat.loss_tracker(self),)
