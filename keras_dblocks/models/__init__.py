"""The whole model and the single block."""
