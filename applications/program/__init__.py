"""The train program and the demo that classifiers share."""

from keras_dblocks.applications.program.command import main

__all__ = ["main"]
