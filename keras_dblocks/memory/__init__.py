"""What training needs, measured and foretold."""

from keras_dblocks.memory.measure import measure
from keras_dblocks.memory.plan import Plan, plan
from keras_dblocks.memory.usage import Memory

__all__ = ["Memory", "Plan", "measure", "plan"]
