"""`python -m keras_dblocks.memory` predicts the memory of a preset."""

import sys

from keras_dblocks import applications
from keras_dblocks.applications.program.memory import main

if __name__ == "__main__":
    named = map(vars(applications).get, applications.__all__)
    sys.exit(main([c for c in named if hasattr(c, "presets")]))
