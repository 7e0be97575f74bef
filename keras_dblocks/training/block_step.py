"""The parts of one block's training step that all backends share."""

import keras


class BlockStep:
    """One training step of one block.

    JAX, TensorFlow and PyTorch differ in how a gradient is taken and in what
    is compiled. Each has a subclass for this, which calls the methods below.

    Args:
        trainer: `BlockTrainer`.
        index: int. Number of the block.
        as_only_block: bool. Whether it trains as if there was no other.
    """

    def __init__(self, trainer, index, as_only_block=False):
        self.trainer = trainer
        self.index = index
        self.block = trainer.blocks[index]
        self.optimizer = trainer.block_optimizer(index)
        self.loss_constants = self.block.loss_constants(as_only_block)
        self.trackers = trainer.loss_trackers(index)

    @property
    def earlier(self):
        """Blocks that the hand-over of a step runs (list)."""
        return self.trainer.blocks[: self.index] if self.share else []

    @property
    def share(self):
        """Share of a batch that is handed over (float)."""
        return self.trainer.on_policy

    def begin(self, data, constants):
        """See `TrainableBlock.begin_hand_over`."""
        return self.block.begin_hand_over(data, self.share, constants)

    def loss(self, data, handed, constants):
        """Loss of the block and of its layers, to be differentiated."""
        loss = self.block.training_loss(data, handed, constants)
        return sum(self.block.losses, loss)

    def values(self, variables):
        """What the variables are during an epoch (list of numpy arrays)."""
        return [keras.ops.convert_to_numpy(v) for v in variables]

    def track(self, loss, data):
        """Updates the running losses and returns their values by name."""
        weight = self.block.batch_weight(data)
        for tracker in self.trackers:
            tracker.update_state(loss, sample_weight=weight)
        logs = {tracker.name: tracker.result() for tracker in self.trackers}
        return logs | self.block.results()


def assign(trainer, pairs):
    """Sets variables to others' values before a step.

    Args:
        trainer: `BlockTrainer`.
        pairs: list of pairs of a variable and the one whose value it gets.
    """
    for variable, other in pairs:
        variable.assign(other)


def next_batches(iterator, count):
    """List of the next `count` batches, or of those that are left.

    Raises:
        StopIteration: if no batch is left.
    """
    batches = [next(iterator)]
    for _ in range(count - 1):
        try:
            batches.append(next(iterator))
        except StopIteration:
            break
    return batches


def unpack(data):
    """`(x, y, sample_weight)` of a batch as `fit` hands it out."""
    return keras.utils.unpack_x_y_sample_weight(data)
