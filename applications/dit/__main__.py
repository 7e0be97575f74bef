"""`python -m keras_dblocks.applications.dit`: see `--help`."""

import sys

from keras_dblocks.applications.dit import DiT
from keras_dblocks.applications.program import main

if __name__ == "__main__":
    sys.exit(main(DiT))
