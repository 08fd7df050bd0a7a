"""Recipes that come with the package. `neuralese recipes list` shows them, `copy` makes one yours."""
