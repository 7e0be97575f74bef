"""`python -m keras_dblocks.applications.dit`: see `--help`."""

import sys

from keras_dblocks.applications.dit import DiT
from keras_dblocks.applications.program import main
from keras_dblocks.applications.program.images import (
    GENERATE,
    GenerationRun,
    generate,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["generate"]:
        program = "python -m keras_dblocks.applications.dit"
        sys.exit(generate(DiT, sys.argv[2:], program))
    sys.exit(main(DiT, run_class=GenerationRun, more=GENERATE))
