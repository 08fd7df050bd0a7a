"""A learned map of the last hidden state."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import Thought, ThoughtSource, register_thought_source


@register_thought_source("projection")
class Projection(ThoughtSource):
    """z = rms(E) · LayerNorm(W₂ GELU(W₁ h)): a learned map (CODI, arXiv 2502.21074), at the embeddings' norm.

    Args:
        width: Size of the hidden layer. Default: that of the hidden state.
    """

    def __init__(self, hidden_size: int, width: int | None = None) -> None:
        super().__init__(hidden_size)
        width = hidden_size if width is None else width
        if width < 1:
            raise ValueError(f"width={width} must be at least 1")
        self.map = nn.Sequential(
            nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, hidden_size), nn.LayerNorm(hidden_size)
        )

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        return Thought(self.map(hidden) * model.latent_config.embedding_rms)
