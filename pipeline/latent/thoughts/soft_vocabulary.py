"""A mixture of token embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..engine.precision import precise
from .base import (
    Mixture,
    Thought,
    ThoughtSource,
    register_thought_source,
    suppress,
)


@register_thought_source("soft_vocabulary")
class SoftVocabulary(ThoughtSource):
    """z = Σ p_v E(v) over the top_k most likely tokens, p = softmax(logits / temperature) among them.

    Soft Thinking (arXiv 2505.15778) and the mixtures of arXiv 2509.19170. The latent stays in the hull of the token
    embeddings. The latent special tokens take no part.
    """

    gives = ("mixture",)

    def __init__(self, hidden_size: int, top_k: int = 10, temperature: float = 1.0) -> None:
        super().__init__(hidden_size)
        if top_k < 1 or temperature <= 0:
            raise ValueError(f"top_k={top_k} must be at least 1 and temperature={temperature} above 0")
        self.top_k, self.temperature = top_k, temperature

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        logits = precise(suppress(model.head_logits(hidden), model.latent_config.token_ids))  # (..., V)
        values, tokens = logits.topk(min(self.top_k, logits.size(-1)), dim=-1)  # (..., k)
        mixture = Mixture(values, model.get_input_embeddings()(tokens), self.temperature)
        return Thought(mixture.mean(), mixture=mixture)
