"""Thoughts and answers drawn from a model, and latents that are given to it."""
