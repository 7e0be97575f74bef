"""Writes images of which only the depth of a network finds the class.

Nine handwritten digits stand in a square. Each names a cell, 1 to 9, row by
row. Whoever begins in the first cell and goes on to the cell that a digit
names, until a digit is at least 8, ends in some cell: that cell, 0 to 6, is
the class. All numbers of moves from 0 to the longest are equally frequent, so
that a network that can make few moves is right on some images, and a deeper
one on more:

    python tools/pointer_images.py pointers.npz
    KERAS_BACKEND=jax python tools/compare_vit.py --data pointers.npz \
        --patch-size 8 --rows twin matched ours

The digits are scikit-learn's, those of training and test apart.
"""

import argparse

import numpy as np

from keras_dblocks.applications.data.sources import read_digits

END = 8  # the smallest digit at which the way ends


def end_of(grid):
    """The last cell of a way and the number of moves, or None in a circle.

    Args:
        grid: int array `(9,)` of digits 1 to 9.
    """
    cell, moves = 0, 0
    while grid[cell] < END:
        cell, moves = grid[cell] - 1, moves + 1
        if moves > 9:
            return None
    return cell, moves


def grids(count, longest, rng):
    """Digits `(count, 9)` and classes, the numbers of moves equally often."""
    wanted = np.arange(count) % (longest + 1)
    left = np.bincount(wanted, minlength=longest + 1)
    found = []
    while len(found) < count:
        for grid in rng.integers(1, 10, (100_000, 9)):
            way = end_of(grid)
            if way and way[1] <= longest and left[way[1]]:
                left[way[1]] -= 1
                found.append((grid, way[0]))
    rng.shuffle(found)
    digits, classes = zip(*found, strict=True)
    return np.stack(digits), np.array(classes)


def pictures(digits, images, labels, rng):
    """Images `(count, 24, 24, 1)` of grids of digits."""
    chosen = np.empty_like(digits)
    for digit in range(1, 10):
        here = digits == digit
        known = np.flatnonzero(labels == digit)
        chosen[here] = rng.choice(known, here.sum())
    size = images.shape[1]
    parts = images[chosen].reshape(-1, 3, 3, size, size)
    return parts.transpose(0, 1, 3, 2, 4).reshape(-1, 3 * size, 3 * size, 1)


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("output", help="an .npz file")
    add("--train-images", type=int, default=100_000)
    add("--test-images", type=int, default=5_000)
    add("--longest", type=int, default=5, help="most moves")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    digits = read_digits("digits", None)
    arrays = {}
    for part in ("train", "test"):
        count = getattr(args, f"{part}_images")
        grid, classes = grids(count, args.longest, rng)
        images, labels = digits[f"x_{part}"], digits[f"y_{part}"]
        arrays[f"x_{part}"] = pictures(grid, images, labels, rng)
        arrays[f"y_{part}"] = classes
    np.savez_compressed(args.output, **arrays)


if __name__ == "__main__":
    main()
