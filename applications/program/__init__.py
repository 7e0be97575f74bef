"""The training programs, and the demo of the classifiers."""

from keras_dblocks.applications.program.command import main

__all__ = ["main"]
