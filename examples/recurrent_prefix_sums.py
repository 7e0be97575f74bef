"""Iterations on an algorithmic task: running sums of bits, modulo 2.

    KERAS_BACKEND=jax python examples/recurrent_prefix_sums.py

Answer i is the parity of the first i bits, from those bits alone: a network
of a few layers sees how to go on from the answer before, not how to jump to
the end. The recurrent core hands itself what it has so far. The share of right
strings is printed for each number of iterations, one trained model for all.
(The task: https://arxiv.org/abs/2106.04537.)
"""

import argparse

import keras
import numpy as np

from keras_dblocks import DiffusionBlocks
from keras_dblocks.applications import RecurrentDepth
from keras_dblocks.samplers import EulerSampler


class PrefixSums(RecurrentDepth):
    """A `RecurrentDepth` from a sequence to a sequence: `fit(x, y)`."""

    most_iterations = 16  # that a training step may start from

    def condition_of(self, x):
        return x

    def split(self, x, y):
        return y, x

    check_targets = DiffusionBlocks.check_targets
    check_data = DiffusionBlocks.check_data


START = 2  # symbol before the bits: attention alone knows no first place


def strings(count, length, seed):
    """Symbols `(count, 1 + length)`, start and bits, and running parities."""
    bits = np.random.default_rng(seed).integers(0, 2, (count, length))
    bits = np.pad(bits, ((0, 0), (1, 0)))
    symbols = bits.copy()
    symbols[:, 0] = START
    return symbols, bits.cumsum(-1) % 2


def main(argv=None):
    """Trains, and returns the share of right strings by iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden-dim", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    model = PrefixSums(
        3,
        1 + args.length,
        prelude_layers=0,
        core_layers=1,
        coda_layers=0,
        hidden_dim=args.hidden_dim,
        num_heads=4,
        seed=args.seed,
    )
    steps = args.epochs * args.examples // 64
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.05, warmup_target=1e-3, warmup_steps=steps // 30
    )
    # A quarter of each batch sees true answers in noise: without them one seed
    # of two never learns the step from one bit to the next.
    model.compile(keras.optimizers.AdamW(rate, clipnorm=1.0), on_policy=0.75)
    x, y = strings(args.examples, args.length, seed=args.seed)
    model.fit(x, y, batch_size=64, epochs=args.epochs, verbose=2)
    x, y = strings(1000, args.length, seed=args.seed + 1)
    right = {}
    for steps in (1, 2, 4, 8, 16, 32):
        model.sampler = EulerSampler(steps)
        answer = model.predict(x, batch_size=500, verbose=0).argmax(-1)
        right[steps] = float((answer == y).all(-1).mean())
        bits = float((answer == y).mean())
        print(
            f"{steps} iterations: {100 * right[steps]:.1f} % of strings, "
            f"{100 * bits:.1f} % of bits right"
        )
    return right


if __name__ == "__main__":
    main()
