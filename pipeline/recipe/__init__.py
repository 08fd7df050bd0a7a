"""Recipes: every key, how files are read, and the presets."""
