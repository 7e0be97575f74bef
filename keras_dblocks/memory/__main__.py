"""`python -m keras_dblocks.memory`: what training a preset needs, by method."""

import argparse
import sys

from keras_dblocks import applications
from keras_dblocks.memory.methods import table
from keras_dblocks.memory.plan import plan
from keras_dblocks.memory.usage import MIB


def main(argv=None):
    """Prints the table; 2 for settings that do not fit together."""
    classes = {c.__name__: c for c in vars(applications).values() if _is_one(c)}
    presets = {n: c for c in classes.values() for n in c.presets}
    parser = argparse.ArgumentParser(
        prog="python -m keras_dblocks.memory",
        description="What training needs, by method, before it is begun.",
    )
    add = parser.add_argument
    add("--preset", required=True, choices=sorted(presets), metavar="NAME")
    add("--batch-size", type=int, default=128)
    add("--num-blocks", type=int)
    add("--vocabulary-size", type=int, help="of text (default: the class's)")
    add("--budget", help='such as "8 GiB": which blocks and batch would fit')
    args = parser.parse_args(argv)
    names = ("num_blocks", "vocabulary_size")
    config = {k: getattr(args, k) for k in names if getattr(args, k)}
    try:
        model = presets[args.preset].from_preset(args.preset, **config)
        names = ("parameters", "state", "gradients", "activations", "total")
        heads = [f"{name:>12}" for name in names]
        print(f"{args.preset}, batch {args.batch_size}, MiB")
        print(f"{'':32}", *heads)
        for name, memory in table(model, args.batch_size):
            print(f"{name:32}", *memory.row(), flush=True)
        print(f"({memory.how})")
        if args.budget:
            found = plan(model, args.batch_size, args.budget)
            print(
                f"{args.budget}: num_blocks={found.num_blocks}, batch "
                f"{found.batch_size}, {found.memory.total / MIB:,.1f} MiB"
            )
    except (TypeError, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _is_one(thing):
    return isinstance(thing, type) and getattr(thing, "presets", None)


if __name__ == "__main__":
    sys.exit(main())
