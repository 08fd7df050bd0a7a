"""Evaluation: what a checkpoint can do, with intervals."""
