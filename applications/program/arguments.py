"""What the parsers of command-line arguments share."""

import argparse
import sys


def number(kind, low, high=float("inf")):
    """Returns a function that parses a number from `low` to `high`.

    Args:
        kind: type of the number, `int` or `float`.
    """

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            limits = f"from {low} to {high}, not {text}"
            raise argparse.ArgumentTypeError(f"a number {limits}")
        return value

    parse.__name__ = kind.__name__  # for argparse's message
    return parse


def given(args, names):
    """Returns a dict of those arguments that there are and are not None."""
    values = {name: getattr(args, name, None) for name in names}
    return {name: v for name, v in values.items() if v is not None}


def print_error(error):
    """Prints an error on one line, and returns the exit status 2."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return 2
