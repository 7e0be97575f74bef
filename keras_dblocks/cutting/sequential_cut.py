"""A network that exists, trained block after block with local losses."""

import keras
import numpy as np
from keras import ops

from keras_dblocks import compat
from keras_dblocks.cutting.cut_block import CutBlock
from keras_dblocks.cutting.cut_model import CutModel
from keras_dblocks.cutting.graph import packed, unpacked
from keras_dblocks.cutting.local_head import make_heads
from keras_dblocks.cutting.saved_blocks import load_blocks, save_blocks
from keras_dblocks.cutting.units import Unit
from keras_dblocks.table import count
from keras_dblocks.training.curriculum import Phase
from keras_dblocks.training.curriculum import get as get_curriculum


class SequentialBlock(CutBlock):
    """A piece of a network, trained with a loss of its own.

    It is handed what the blocks before it make of a batch, in inference, and
    predicts through a head of its own.
    """

    @property
    def piece(self):
        """The block's calls, a `Piece`."""
        return self.network.pieces[self.index]

    @property
    def _head_layers(self):
        head = self.network.heads[self.index]
        return [] if head is None else head.layers

    @property
    def variables(self):
        own = [v for layer in self._head_layers for v in layer.variables]
        return [*super().variables, *own]

    @property
    def non_trainable_variables(self):
        generators = compat.seed_generators(self._head_layers)
        states = [generator.state for generator in generators]
        return [*super().non_trainable_variables, *states]

    def begin_hand_over(self, data, share, constants, rows=None):
        return (), data[0]

    def pass_on(self, state, context, constants):
        made = self.piece(context, unpacked(state), training=False)
        return packed(made)

    def batch_loss(self, data, handed):
        network, x = self.network, data[0]
        head = network.heads[self.index]

        def predict():
            states = self.piece(x, unpacked(handed or ()), training=True)
            if head is None:
                (prediction,) = states
                return prediction
            return head(x, states, training=True)

        large = network.head if head is None else head.large_head
        return network.training_loss(data, predict, large)


class SequentialCut(CutModel):
    """`CutModel` whose blocks are trained one after the other.

    A block is handed what the blocks before it make of a batch, without
    gradient, and learns to predict from it through a local head. So a step
    keeps one block's activations, gradients and optimizer state.

    Args:
        model: built functional or `Sequential` model.
        graph: `Graph` of the model.
        starts: list of the positions of the blocks' first calls.
        head: see `cut`.
        seed: int.

    References:
     - [Greedy layerwise learning](https://arxiv.org/abs/1812.11446)
    """

    block_class = SequentialBlock
    default_on_policy = 1.0

    _evaluates = False

    def __init__(self, model, graph, starts, head=None, seed=0):
        ends = [*starts[1:], len(graph.calls)]
        pieces = [graph.piece(*s) for s in zip(starts, ends, strict=True)]
        division, owner = [], {}
        for index, piece in enumerate(pieces):
            called = {id(c.operation): c for c in piece.calls if c.variables}
            new = {k: c for k, c in called.items() if k not in owner}
            owner |= dict.fromkeys(new, index)
            division.append([Unit(c.path, c.operation) for c in new.values()])
        super().__init__(model, division, seed)
        sizes = [len(own) for own in super()._division()]
        if not all(sizes):
            raise ValueError(
                "Each block trains layers of its own. Received: block "
                f"{sizes.index(0)} of {model.name}, whose layers earlier "
                "blocks have. Pass fewer blocks."
            )
        self.__dict__["pieces"] = pieces
        heads = make_heads(graph, pieces, owner, head, self.head, seed)
        self.__dict__["heads"] = [*heads, None]
        self.head_layers = [layer for one in heads for layer in one.layers]
        names = [f"block_{i}_loss" for i in range(len(pieces))]
        self._loss_means = compat.Losses(names, name="block_losses")
        self.finish()

    @property
    def block_losses(self):
        """Running mean of each block's loss, a list of `keras.metrics.Mean`."""
        return self._loss_means.metrics

    def _division(self):
        heads = [[] if head is None else head.layers for head in self.heads]
        return [
            [*own, *(v for layer in layers for v in layer.variables)]
            for own, layers in zip(super()._division(), heads, strict=True)
        ]

    def layers_to_remat(self, index):
        """The block's own composite layers (list)."""
        units = self.blocks[index].units
        return [unit.layer for unit in units if unit.is_composite]

    def compile(
        self,
        optimizer="adamw",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        curriculum="in_sequence",
        curriculum_steps=None,
        remat=False,
        **kwargs,
    ):
        """Configures training.

        Args:
            optimizer: name or `keras.optimizers.Optimizer`. Every block has
                one of its own with these settings, and with its head. A
                schedule, written for all steps by `num_blocks`, is gone
                through as a whole in the phase of each block.
            loss, loss_weights, metrics, weighted_metrics: as in Keras. With
                no `loss`, it and the others of these that are not given are
                those the network was compiled with. In training they see the
                predictions of the block that trains, through its head; in
                `evaluate` and validation those of the network, whose later
                blocks may not have been trained yet.
            curriculum: `"in_sequence"` (each block has an equal part of the
                first `fit`, the first block first), `"sampled"` (a block is
                drawn for each batch, all the time), or a list of
                `training.curriculum.Phase(share, block)`.
            curriculum_steps: int, the length of the curriculum in steps.
                Defaults to the length of the first `fit`.
            remat: as in `ExactCut.compile`, for the block's own layers.
            kwargs: `block_order` and `steps_per_visit` (of `"sampled"` and
                after the curriculum), `run_eagerly`, `steps_per_execution`,
                `jit_compile`, `offload` and `store_hand_overs` of
                `BlockTrainer.compile`.

        Raises:
            ValueError: for values out of range. Without any loss, `fit`
                raises it.
        """
        if curriculum == "in_sequence":
            blocks = range(self.num_blocks)
            curriculum = [Phase(1.0, block=index) for index in blocks]
        plan = get_curriculum(curriculum, self.num_blocks)
        for phase in [] if plan is None else plan.phases:
            if phase.start_from is not None or phase.as_only_block:
                raise ValueError(
                    "Blocks of a network that was cut are not copies of each "
                    f"other. Received: {phase}. Pass `Phase(share, block)`."
                )
        super().compile(
            optimizer,
            loss,
            loss_weights,
            metrics,
            weighted_metrics,
            remat,
            curriculum=curriculum,
            curriculum_steps=curriculum_steps,
            **kwargs,
        )

    def end_curriculum(self):
        """Called when `fit` ends: no block is a copy of another."""

    def evaluate(self, *args, **kwargs):
        """Loss and metrics of the network, as its own `evaluate`."""
        self._evaluates = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluates = False

    def get_metrics_result(self):
        found = super().get_metrics_result()
        if self._evaluates:  # blocks have losses in training alone
            for metric in self.block_losses:
                del found[metric.name]
        return found

    def predict_steps(self, x, batch_size=32):
        """Predictions after each block, through its head.

        Args:
            x: inputs as in `predict`.
            batch_size: int.

        Returns:
            numpy array `(num_blocks, N, ...)`.
        """
        made = self.steps_model().predict(x, batch_size=batch_size, verbose=0)
        return np.moveaxis(made, 1, 0)

    def steps_model(self):
        """The model behind `predict_steps`, which compiles a new one each time.

        Returns:
            `keras.Model` from x to predictions `(N, num_blocks, ...)`.
        """
        return _Steps(self)

    def last_calls(self):
        """For each block, the number of its prediction (dict)."""
        return {index: index for index in range(self.num_blocks)}

    def save_blocks(self, folder):
        """Writes each block as an ordinary Keras model in a file of its own.

        `predict_from_blocks` predicts with one of them in memory at a time.

        Args:
            folder: path. It is made if it does not exist.
        """
        save_blocks(self.pieces, folder)

    def load_blocks(self, folder, custom_objects=None):
        """Loads the network's weights from what `save_blocks` wrote."""
        load_blocks(self.pieces, self.blocks, folder, custom_objects)

    def summary_columns(self, index=None):
        if index is None:
            return "head's parameters", "hands over"
        piece, head = self.pieces[index], self.heads[index]
        if head is None:
            return "", ""
        layers = head.layers
        own = count([v for layer in layers for v in layer.variables])
        specs = [piece.graph.specs[number] for number in piece.leaving]
        shapes = [str(("B", *spec.shape[1:])) for spec in specs]
        return f"{own:,}", ", ".join(shapes)


class _Steps(keras.Model):
    """Predictions after every block, for `predict_steps`."""

    def __init__(self, network):
        super().__init__(name="steps")
        self.network = network
        compat.takes_inputs_as_they_are(self)
        self.built = True

    def call(self, x):
        states, made = [], []
        parts = zip(self.network.pieces, self.network.heads, strict=True)
        for piece, head in parts:
            states = piece(x, states, training=False)
            if head is None:
                made += states
            else:
                made.append(head(x, states, training=False))
        return ops.stack(made, 1)
