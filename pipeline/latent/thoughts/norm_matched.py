"""The last hidden state at the norm of the token embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine.precision import precise
from .base import Thought, ThoughtSource, register_thought_source


@register_thought_source("norm_matched")
class NormMatched(ThoughtSource):
    """z = h · rms(E) / rms(h): the hidden state, rescaled to the norm of the token embeddings.

    The layers of the model expect inputs of the embeddings' size; a hidden state after the final norm can be many
    times larger. The gradient flows through rms(h).
    """

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        rms = precise(hidden).pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt()  # (..., 1)
        return Thought(hidden * (model.latent_config.embedding_rms / rms).to(hidden.dtype))
