"""`python -m keras_dblocks.applications.ar`: see `--help`."""

import sys

from keras_dblocks.applications.ar import ARTransformer
from keras_dblocks.applications.program import main

if __name__ == "__main__":
    sys.exit(main(ARTransformer))
