"""Cost of the conditioning of a transformer layer, forward and backward.

    KERAS_BACKEND=torch python tools/measure_layer.py

A layer of ViT with the paper's sizes (width 128, MLP 3072, 65 tokens) runs
eagerly on PyTorch in three ways: conditioned as in training, conditioned
without computing anything again in the backward pass, and unconditioned. The
tool prints the milliseconds of `--num-layers` calls, one line of JSON each.
"""

import argparse
import statistics
import time

import torch
from steps import report

from keras_dblocks.layers import TransformerLayer


def main():
    """Prints one line of JSON for each of the three ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--num-layers", type=int, default=12)
    add("--batch-size", type=int, default=32)
    add("--steps", type=int, default=25)
    args = parser.parse_args()
    x = torch.randn(args.batch_size, 65, 128, requires_grad=True)
    noise = torch.randn(args.batch_size, 128)
    ways = {}
    for conditioned in (True, False):
        layer = TransformerLayer(4, 3072, conditioned=conditioned)
        given = {"noise": noise} if conditioned else {}
        layer.build(*(t.shape for t in (x, *given.values())))
        name = "conditioned" if conditioned else "unconditioned"
        ways[name] = (layer, {**given, "training": True})
        if conditioned:
            ways["nothing again"] = (layer, {**given, "training": False})
    taken = {way: ([], []) for way in ways}
    for _ in range(2 + args.steps):  # the first two are not counted
        for way, (layer, given) in ways.items():
            begin = time.perf_counter()
            total = layer(x, **given).sum()
            middle = time.perf_counter()
            total.backward()
            end = time.perf_counter()
            taken[way][0].append(middle - begin)
            taken[way][1].append(end - middle)
    for way, parts in taken.items():
        scale = 1000 * args.num_layers
        forward, backward = (
            round(scale * statistics.median(part[2:]), 1) for part in parts
        )
        report("layer", way=way, forward_ms=forward, backward_ms=backward)


if __name__ == "__main__":
    main()
