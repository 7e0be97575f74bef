"""On-policy noise: what the earlier blocks hand over to a block."""

from keras import ops

from keras_dblocks.samplers.euler import euler_step


def hand_over(model, block, condition, training=True):
    """State the earlier blocks hand over at the upper edge of `block`.

    On-policy noise (METHOD 9): what inference will feed this block, instead
    of the clean signal plus noise. Run without gradients, each earlier block
    once, from the sampler's start.

    Args:
        model: `DiffusionBlocks`.
        block: int. The block that will be trained on the state.
        condition: tensor(s) `(count, ...)`.
        training: bool. False makes a start from noise the same every time.

    Returns:
        The state, float32 tensor `(count, ...)`, and its levels `(count,)`.
    """
    noisy, level = model.first_state(block, condition, training)
    for earlier in model.blocks[:block]:
        levels = model.pass_levels(earlier.index)
        noisy, level = pass_on(earlier, noisy, levels, condition)
    return ops.stop_gradient(noisy), level


def pass_on(earlier, noisy, levels, condition, stem=None):
    """State and levels after one Euler step with an earlier block.

    Args:
        earlier: `Block`.
        noisy: tensor `(count, ...)`.
        levels: noise levels before and after, two scalars.
        condition: tensor(s) `(count, ...)`.
        stem: as in `Block.denoise`.
    """
    ones = ops.ones((ops.shape(noisy)[0],), dtype="float32")
    level = levels[0] * ones
    prediction = earlier.denoise(noisy, level, condition, stem=stem)
    denoised = earlier.target.bridge(prediction)
    return euler_step(noisy, denoised, *levels), levels[1] * ones
