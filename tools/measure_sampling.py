"""Time to generate samples with B blocks, relative to one block.

    KERAS_BACKEND=jax python tools/measure_sampling.py --application dit
    KERAS_BACKEND=torch python tools/measure_sampling.py --application mdm

The number of steps is the same, and each is through 1 / B of the layers. On JAX
the tool also compares the time to compile the sampler for 50 steps with that
for one step per block.
"""

import argparse
import functools

import numpy as np
from steps import BACKEND, median_seconds, report, seconds

from keras_dblocks.applications import MDM, DiT


def make(args, blocks):
    """Makes a compiled model with this number of blocks."""
    cls, sizes = DiT, {"image_size": 32, "patch_size": 4, "num_classes": 100}
    if args.application == "mdm":
        cls, sizes = MDM, {"vocabulary_size": 27, "sequence_length": 256}
    sizes |= {"num_layers": args.num_layers, "hidden_dim": args.hidden_dim}
    model = cls(num_blocks=blocks, num_heads=4, **sizes)
    model.compile("adamw")
    return model


def generator(args, model, count, steps):
    """Makes a function that generates `count` samples in `steps` steps."""
    if args.application == "mdm":
        options = {"num_samples": count}
    else:
        labels = np.zeros(count, "int32")
        options = {"labels": labels, "sampler": "euler"}
    return functools.partial(
        model.generate, num_steps=steps, batch_size=count, **options
    )


def sampling(args):
    """Prints the time to generate samples relative to one block."""
    models = {b: make(args, b) for b in (1, *args.blocks)}
    makers = {
        blocks: generator(args, model, args.batch_size, 50)
        for blocks, model in models.items()
    }
    taken = median_seconds(makers, args.steps)
    for blocks in args.blocks:
        report(
            "sampling_50_steps",
            blocks=blocks,
            one_block_s=round(taken[1], 3),
            blocks_s=round(taken[blocks], 3),
            times_B=round(taken[blocks] / taken[1] * blocks, 3),
        )


def compile_time(args):
    """Prints the time of the first call of the sampler less the second."""
    for blocks in args.blocks:
        taken = {}
        for steps in (blocks, 50):
            run = generator(args, make(args, blocks), 2, steps)
            taken[steps] = seconds(run) - seconds(run)
        report(
            "sampler_compile",
            blocks=blocks,
            one_step_per_block_s=round(taken[blocks], 2),
            steps_50_s=round(taken[50], 2),
            ratio=round(taken[50] / taken[blocks], 3),
        )


def main():
    """Prints one line of JSON for each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--application", choices=["dit", "mdm"], default="dit")
    add("--blocks", type=int, nargs="+", default=[2, 3, 4])
    add("--batch-size", type=int, default=128)
    add("--num-layers", type=int, default=12)
    add("--hidden-dim", type=int, default=128)
    add(
        "--steps",
        type=int,
        default=6,
        help="repetitions, of which the median is printed",
    )
    args = parser.parse_args()
    if BACKEND == "jax":
        compile_time(args)
    sampling(args)


if __name__ == "__main__":
    main()
