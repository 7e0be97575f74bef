"""Computes what a step costs on 1 to 1,000 machines, in each way to train.

Nothing is measured here. The arithmetic, for P parameters and B blocks on N
machines, each with one device:

- a training step takes 6 P operations a token, of which 2 P are the forward
  pass (a hand-over's only cost);
- parameters, gradients and Adam's two averages take 16 bytes a parameter;
- a mean of gradients over n machines sends 2 (n - 1) / n times their bytes
  from each (ring all-reduce); ZeRO-3 sends 1.5 times as much as data
  parallelism, and each machine holds 1 / N of the state;
- a pipeline of S stages and M small batches idles for (S - 1) / (M + S - 1) of
  the time (GPipe);
- blocks: with fewer machines than blocks, a machine trains several, one after
  another; with more, each block's machines are data parallel. Where the
  earlier blocks run too, the last block's machine holds their parameters; the
  files that it reads at a refresh are not counted.

It counts a step of all blocks, which is as many layer evaluations as one step
of the whole network, and prints a Markdown table.

    python tools/cost_of_scaling.py --gigabits 10
"""

import argparse
import math

MACHINES = (1, 2, 4, 8, 16, 64, 1000)


def reduced(num_bytes, machines):
    """Bytes that each machine sends for the mean of `num_bytes`."""
    return 2 * (machines - 1) / machines * num_bytes


def data_parallel(a, machines):
    """Seconds of a step, bytes sent by each machine, bytes of state."""
    sent = reduced(4 * a.parameters, machines)
    return a.compute / machines + sent / a.bandwidth, sent, 16 * a.parameters


def zero(a, machines):
    """The same for ZeRO-3, of the most sharded kind."""
    sent = 1.5 * reduced(4 * a.parameters, machines)
    held = 16 * a.parameters / machines
    return a.compute / machines + sent / a.bandwidth, sent, held


def pipeline(a, machines):
    """The same for a pipeline of as many stages as there are blocks."""
    stages = min(machines, a.blocks)
    copies = machines // stages
    busy = a.microbatches / (a.microbatches + stages - 1)
    boundary = 2 * 2 * a.tokens / copies * a.width if stages > 1 else 0
    sent = boundary + reduced(4 * a.parameters / stages, copies)
    seconds = a.compute / machines / busy + sent / a.bandwidth
    return seconds, sent, 16 * a.parameters / stages


def blocks(a, machines, handed=0.0):
    """The same for blocks, which run `handed` forward passes before each."""
    turns = math.ceil(a.blocks / machines)  # one after another
    others = 4 * a.parameters * min(handed, 1) * (a.blocks - 1) / a.blocks
    copies = max(1, machines // a.blocks)
    sent = reduced(4 * a.parameters / a.blocks, copies)
    one = a.compute / a.blocks * (1 + handed / 3) / copies
    seconds = turns * (one + sent / a.bandwidth)
    return seconds, sent, 16 * a.parameters / a.blocks + others


def handing_over(a, machines):
    """The same for blocks that run the earlier ones in each step.

    With a machine for each, the last block's machine, which runs all others,
    takes longest; the same machine takes all of them in turn otherwise.
    """
    last = a.blocks - 1
    return blocks(a, machines, last if machines >= a.blocks else last / 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parameters", type=float, default=1.2e9)
    add("--blocks", type=int, default=8)
    add("--tokens", type=int, default=65_536, help="of a batch")
    add("--width", type=int, default=2048)
    add("--microbatches", type=int, default=32)
    add("--teraflops", type=float, default=100.0, help="that are reached")
    add("--gigabits", type=float, default=10.0, help="between machines")
    a = parser.parse_args()
    a.compute = 6 * a.parameters * a.tokens / (a.teraflops * 1e12)
    a.bandwidth = a.gigabits * 1e9 / 8
    ways = {
        "data parallel": data_parallel,
        "ZeRO-3": zero,
        "pipeline": pipeline,
        "blocks, independent": blocks,
        "blocks, hand-overs run": handing_over,
    }
    print(f"| machines | {' | '.join(ways)} |")
    print("|---" * (1 + len(ways)) + "|")
    for machines in MACHINES:
        cells = []
        for way in ways.values():
            seconds, sent, held = way(a, machines)
            cells.append(
                f"{seconds:.3g} s, {sent / 1e9:.2g} GB, {held / 1e9:.2g} GB"
            )
        print(f"| {machines} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
