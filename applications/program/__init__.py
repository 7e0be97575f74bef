"""The program of all systems: `train`, `generate`, `demo`."""

from keras_dblocks.applications.program.command import main

__all__ = ["main"]
