"""Thought sources: how the next input embedding is made from the last hidden state.

To add one, write a function `(hidden (..., d), config) -> latent (..., d)` and register it under its name.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .config import LatentConfig


class ThoughtSource(Protocol):
    """Makes latents (..., d) from last hidden states (..., d)."""

    def __call__(self, hidden: Tensor, config: LatentConfig) -> Tensor: ...


THOUGHT_SOURCES: dict[str, ThoughtSource | None] = {}


def raw(hidden: Tensor, config: LatentConfig) -> Tensor:
    """z = h: the last hidden state as it is (Coconut, arXiv 2412.06769, section 3)."""
    return hidden


def norm_matched(hidden: Tensor, config: LatentConfig) -> Tensor:
    """z = h · rms(E) / rms(h): the hidden state, rescaled to the norm of the token embeddings.

    The layers of the model expect inputs of the embeddings' size; a hidden state after the final norm can be many
    times larger. The gradient flows through rms(h).
    """
    precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    rms = precise.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt()  # (..., 1)
    return hidden * (config.embedding_rms / rms).to(hidden.dtype)


THOUGHT_SOURCES["raw"] = raw
THOUGHT_SOURCES["norm_matched"] = norm_matched
# The control without recurrence: the placeholder keeps its own learned embedding (pause tokens, arXiv 2310.02226),
# and the whole sequence is one parallel pass.
THOUGHT_SOURCES["pause"] = None


@torch.no_grad()
def embedding_rms(embedding: nn.Embedding) -> float:
    """Root mean square of all input embeddings as the model is fed them, some architectures scaling the matrix.

    Where ZeRO-3 has sharded the matrix (V, d), it is gathered first.
    """
    weight = embedding.weight
    gathered: AbstractContextManager[Any] = nullcontext()
    if hasattr(weight, "ds_id"):
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters([weight])
    with gathered:
        ids = torch.arange(weight.size(0), device=weight.device)
        squares = [embedding(part).float().pow(2).mean(-1) for part in ids.split(4096)]  # (V,) in parts
    return torch.cat(squares).mean().sqrt().item()
