"""Measures and predicts the memory that training needs."""

from keras_dblocks.memory.measure import measure
from keras_dblocks.memory.plan import Plan, plan
from keras_dblocks.memory.usage import PARTS, Memory

__all__ = ["PARTS", "Memory", "Plan", "measure", "plan"]
