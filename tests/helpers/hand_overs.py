"""What earlier blocks hand over, computed outside of a training step."""

from keras_dblocks.training.trainable_block import hand_over


def handed_over(model, index, x, y):
    """Noisy signals and levels for block `index`, or None.

    Args:
        model: compiled `DiffusionBlocks`.
        index: int.
        x, y: a batch.
    """
    return hand_over(model.blocks, index, (x, y, None), model.on_policy)
