"""`python -m keras_dblocks.applications.mdm`: see `--help`."""

import sys

from keras_dblocks.applications.mdm import MDM
from keras_dblocks.applications.program import main

if __name__ == "__main__":
    sys.exit(main(MDM))
