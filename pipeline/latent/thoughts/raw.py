"""The last hidden state as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Thought, ThoughtSource, register_thought_source


@register_thought_source("raw")
class Raw(ThoughtSource):
    """z = h: the last hidden state as it is (Coconut, arXiv 2412.06769, section 3)."""

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        return Thought(hidden)
