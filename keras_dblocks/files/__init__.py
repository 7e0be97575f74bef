"""Saving to disk and loading from it."""
