"""Euler's method from pure noise to the answer, through the blocks."""

from keras import ops

from keras_dblocks.samplers.grid import noise_levels, plan


def euler_step(noisy, denoised, level, next_level):
    """`z' = (s' / s) z + (1 - s' / s) D` (EDM, Algorithm 1 without churn).

    The paper's Equations 3 to 5 have the sign the wrong way round.
    """
    ratio = next_level / level
    return ratio * noisy + (1.0 - ratio) * denoised


class EulerSampler:
    """Runs the blocks in order of falling noise.

    Args:
        num_steps: int, denoiser calls. Defaults to one per block.
        grid: `"upper_edges"`, `"equal_mass"` or `"karras"`; see
            `keras_dblocks.samplers.noise_levels`.
        start: `"zero"` (the mean of the start distribution; for tasks with
            one right answer) or `"noise"` (the reference).
        guidance_scale: float or None. Classifier-free guidance: prediction
            without condition plus this times the difference.
        seed: int. For `start="noise"`.

    Example:

    ```python
    model.sampler = EulerSampler(num_steps=4, grid="equal_mass", start="noise")
    model.predict(x)
    ```

    References:
     - [EDM](https://arxiv.org/abs/2206.00364), Algorithm 1
     - [Classifier-free guidance](https://arxiv.org/abs/2207.12598)
    """

    def __init__(
        self,
        num_steps=None,
        grid="upper_edges",
        start="zero",
        guidance_scale=None,
        seed=0,
    ):
        if start not in ("zero", "noise"):
            raise ValueError(
                '`start` must be "zero" or "noise". '
                f'Received: start={start!r}. Use "zero" for classification.'
            )
        self.num_steps = num_steps
        self.grid = grid
        self.start = start
        self.guidance_scale = guidance_scale
        self.seed = seed

    def plan(self, partition):
        """The visits to blocks this sampler makes."""
        steps = self.num_steps
        if steps is None:
            steps = partition.num_blocks
        return plan(partition, noise_levels(partition, steps, self.grid))

    def begin(self, model, batch_size, seed=None):
        """Start state `(batch_size, ...)`."""
        shape = (batch_size, *model.blocks[0].target.signal_shape)
        if self.start == "zero":
            return model.noise.start(shape)
        return model.noise.start(shape, self.seed if seed is None else seed)

    def __call__(self, model, condition, noisy=None):
        """Last prediction of the chain.

        Args:
            model: `DiffusionBlocks`.
            condition: tensor(s) `(B, ...)`.
            noisy: start state `(B, ...)`; made by `begin` when None.
        """
        if noisy is None:
            noisy = self.begin(model, model.batch_size_of(condition))
        for visit in self.plan(model.partition):
            noisy, prediction = self._visit(model, visit, noisy, condition)
        return prediction

    def trajectory(self, model, condition, noisy=None):
        """Every step of the chain.

        Returns:
            List of dicts with `level`, `block`, `noisy` (the state the block
            was called with), `prediction` and `denoised`.
        """
        if noisy is None:
            noisy = self.begin(model, model.batch_size_of(condition))
        steps = []
        for visit in self.plan(model.partition):
            block = model.blocks[visit.block]
            for level, following in zip(
                visit.levels, visit.next_levels, strict=True
            ):
                prediction = self._predict(block, noisy, level, condition)
                denoised = block.target.bridge(prediction)
                steps.append(
                    {
                        "level": level,
                        "block": visit.block,
                        "noisy": noisy,
                        "prediction": prediction,
                        "denoised": denoised,
                    }
                )
                noisy = euler_step(noisy, denoised, level, following)
        return steps

    def _visit(self, model, visit, noisy, condition):
        block = model.blocks[visit.block]
        levels = ops.convert_to_tensor(visit.levels, dtype="float32")
        following = ops.convert_to_tensor(visit.next_levels, dtype="float32")

        def step(i, carry):
            noisy, _ = carry
            prediction = self._predict(block, noisy, levels[i], condition)
            denoised = block.target.bridge(prediction)
            noisy = euler_step(noisy, denoised, levels[i], following[i])
            return noisy, prediction

        batch = ops.shape(noisy)[0]
        carry = (noisy, ops.zeros((batch, *block.prediction_shape)))
        if len(visit.levels) == 1:
            return step(0, carry)
        # One loop per block, so that the compiled size is that of the layers.
        return ops.fori_loop(0, len(visit.levels), step, carry)

    def _predict(self, block, noisy, level, condition):
        batch = ops.shape(noisy)[0]
        level = ops.cast(level, "float32") * ops.ones((batch,))
        prediction = block.denoise(noisy, level, condition)
        if self.guidance_scale is None:
            return prediction
        empty = block.network().null_condition(condition)
        without = block.denoise(noisy, level, empty)
        return without + self.guidance_scale * (prediction - without)

    def get_config(self):
        return {
            "num_steps": self.num_steps,
            "grid": self.grid,
            "start": self.start,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
        }


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
        float32 tensor `(count, ...)`.
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
    return ops.stop_gradient(noisy)
