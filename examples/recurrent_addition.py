"""Iterations on an algorithmic task: sums of two numbers, digit by digit.

    KERAS_BACKEND=jax python examples/recurrent_addition.py

A recurrent core learns `123+456=0579` as text; the share of right sums is
printed for each number of iterations, one trained model for all of them.
"""

import argparse

import keras
import numpy as np

from keras_dblocks.applications import RecurrentDepth

SYMBOLS = "0123456789+="


def sums(count, digits, seed):
    """Tokens `(count, 3 * digits + 3)` of random sums."""
    numbers = np.random.default_rng(seed).integers(0, 10**digits, (count, 2))
    rows = [
        f"{a:0{digits}}+{b:0{digits}}={a + b:0{digits + 1}}" for a, b in numbers
    ]
    return np.array([[SYMBOLS.index(s) for s in row] for row in rows])


def main(argv=None):
    """Trains, and returns the share of right sums by number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--hidden-dim", type=int, default=64)
    args = parser.parse_args(argv)
    tokens = sums(args.examples, args.digits, seed=0)
    model = RecurrentDepth(
        len(SYMBOLS),
        tokens.shape[1],
        prelude_layers=1,
        core_layers=2,
        coda_layers=1,
        hidden_dim=args.hidden_dim,
        num_heads=4,
    )
    model.compile(keras.optimizers.AdamW(2e-3))
    model.fit(tokens, batch_size=64, epochs=args.epochs, verbose=2)
    test = sums(500, args.digits, seed=1)
    prompt = 2 * args.digits + 2  # up to the equals sign
    right = {}
    for steps in (1, 2, 4, 8):
        answer = model.generate(
            test[:, :prompt], temperature=0, num_steps=steps, batch_size=500
        )
        right[steps] = float((answer == test).all(-1).mean())
        print(f"{steps} iterations: {100 * right[steps]:.1f} % of sums right")
    return right


if __name__ == "__main__":
    main()
