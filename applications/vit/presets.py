"""Presets of ViT: constructor keywords and what they are for."""

PRESETS = {}
