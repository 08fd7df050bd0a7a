"""Thought sources: how the hidden state becomes the next input.

A source of one's own is a subclass of `ThoughtSource` with `@register("name")`.
"""

from .base import THOUGHT_SOURCES, Raw, Thought, ThoughtSource, build_source, register, suppress

__all__ = ["THOUGHT_SOURCES", "Raw", "Thought", "ThoughtSource", "build_source", "register", "suppress"]
