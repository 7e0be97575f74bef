"""What training needs, measured and foretold."""

from keras_dblocks.memory.measure import measure
from keras_dblocks.memory.plan import Plan, plan
from keras_dblocks.memory.usage import PARTS, Memory

__all__ = ["PARTS", "Memory", "Plan", "measure", "plan"]
