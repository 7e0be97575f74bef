"""Time of `fit` relative to a loop over the same compiled steps (JAX).

KERAS_BACKEND=jax python tools/measure_fit.py --batch-size 128
"""

import argparse
import statistics
import time

import jax
import numpy as np
from steps import report

from keras_dblocks.applications import ViT
from keras_dblocks.memory.jax_memory import state_of
from keras_dblocks.memory.plan import example


def bare_loop(model, data, steps):
    """Seconds of `steps` calls of the model's training function."""
    batch = jax.device_put(data)
    state = jax.tree.map(lambda v: v.copy(), state_of(model))
    begin = time.perf_counter()
    for _ in range(steps):
        logs, state = model.train_function(state, iter([batch]))
    jax.block_until_ready((logs, state))
    return time.perf_counter() - begin


def main():
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--num-layers", type=int, default=12)
    add("--blocks", type=int, default=3)
    add("--batch-size", type=int, default=128)
    add("--steps", type=int, default=18)
    args = parser.parse_args()
    model = ViT(
        image_size=32,
        num_classes=100,
        num_layers=args.num_layers,
        num_blocks=args.blocks,
        hidden_dim=128,
        num_heads=4,
    )
    model.compile("adamw", on_policy=0.0, block_order="round_robin")
    data = example(model, args.batch_size)
    x, y = (np.concatenate([part] * args.steps) for part in data)
    model.fit(x, y, args.batch_size, verbose=0)  # compiles
    fit, bare = [], []
    for _ in range(3):
        begin = time.perf_counter()
        model.fit(x, y, args.batch_size, verbose=0)
        fit.append(time.perf_counter() - begin)
        bare.append(bare_loop(model, data, args.steps))
    fit, bare = statistics.median(fit), statistics.median(bare)
    report(
        "fit_over_bare_loop",
        steps=args.steps,
        fit_s=round(fit, 3),
        bare_s=round(bare, 3),
        ratio=round(fit / bare, 3),
    )


if __name__ == "__main__":
    main()
