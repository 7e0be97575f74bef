"""What earlier blocks hand over, computed outside of a training step."""

from keras_dblocks.training.trainable_block import run_hand_over


def handed_over(model, index, x, y):
    """Noisy signals and levels for block `index`, or None.

    Args:
        model: compiled `DiffusionBlocks`.
        index: int.
        x, y: a batch.
    """
    if not model.on_policy:
        return None
    first = model.blocks[0].hand_over_constants()
    return run_hand_over(
        model.blocks,
        index,
        lambda: model.blocks[index].begin_hand_over(
            (x, y, None), model.on_policy, first
        ),
        lambda block, *state: block.pass_on(
            *state, block.hand_over_constants()
        ),
    )
