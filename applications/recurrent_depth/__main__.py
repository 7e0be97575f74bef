"""`python -m keras_dblocks.applications.recurrent_depth`: see `--help`."""

import sys

from keras_dblocks.applications.program import main
from keras_dblocks.applications.recurrent_depth import RecurrentDepth

if __name__ == "__main__":
    sys.exit(main(RecurrentDepth))
