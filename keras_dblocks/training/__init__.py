"""Trains a network in blocks on three backends, independent of the noise."""
