"""Trains a network in blocks, on three backends. Knows no noise."""
