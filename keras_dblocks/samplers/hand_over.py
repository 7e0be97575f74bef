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
    seed = model.blocks[block].seed_generator if training else None
    noisy = model.sampler.begin(model, model.batch_size_of(condition), seed)
    ones = ops.ones((ops.shape(noisy)[0],), dtype="float32")
    for earlier in model.blocks[:block]:
        level = earlier.upper_level
        following = model.blocks[earlier.index + 1].upper_level
        prediction = earlier.denoise(noisy, level * ones, condition)
        denoised = earlier.target.bridge(prediction)
        noisy = euler_step(noisy, denoised, level, following)
    return ops.stop_gradient(noisy), model.blocks[block].upper_level * ones
