"""`python -m keras_dblocks.applications.vit`: see `--help`."""

import sys

from keras_dblocks.applications.program import main
from keras_dblocks.applications.vit import ViT

if __name__ == "__main__":
    sys.exit(main(ViT))
