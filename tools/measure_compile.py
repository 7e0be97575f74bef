"""Time to compile the steps of all blocks on JAX, relative to the twin.

    KERAS_BACKEND=jax python tools/measure_compile.py --application ar

For the end-to-end twin and for each block in turn: the duration of the first
step, which includes tracing, less that of a later one.
"""

import argparse

from benchmark import CLASSES, add_sizes, config_of
from steps import report, seconds

from keras_dblocks import applications
from keras_dblocks.applications.program.memory import twin
from keras_dblocks.memory.plan import example


def first_less_later(model, data, steps):
    """Seconds by which each of the first `steps` steps took longer."""

    def step():
        model.train_on_batch(*data)

    first = [seconds(step) for _ in range(steps)]
    return [one - seconds(step) for one in first]


def main():
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    names = [name for name in CLASSES if name != "recurrent_depth"]
    add("--application", choices=names, default="vit")
    add("--blocks", type=int, default=4)
    add_sizes(parser)
    add("--batch-size", type=int, default=8)
    add("--on-policy", type=float, default=0.0)
    args = parser.parse_args()
    cls = getattr(applications, CLASSES[args.application])
    config = config_of(args, args.application)
    model = cls(**config, num_blocks=args.blocks)
    data = example(model, args.batch_size)
    (whole,) = first_less_later(twin(cls, config), data, 1)
    order = {"on_policy": args.on_policy, "block_order": "round_robin"}
    model.compile("adamw", **order)
    blocks = first_less_later(model, data, args.blocks)
    report(
        "compile",
        application=args.application,
        on_policy=args.on_policy,
        twin_s=round(whole, 2),
        blocks_s=[round(one, 2) for one in blocks],
        ratio=round(sum(blocks) / whole, 3),
    )


if __name__ == "__main__":
    main()
