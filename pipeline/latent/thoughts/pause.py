"""The controls without recurrence: a learned token in place of a latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Thought, ThoughtSource, register_thought_source


@register_thought_source("pause")
class Pause(ThoughtSource):
    """The control without recurrence: the placeholder keeps its own learned embedding (pause tokens, arXiv 2310.02226).

    The whole sequence is one parallel pass.
    """

    is_recurrent = False


@register_thought_source("pause_multi")
class PauseMultiPass(ThoughtSource):
    """The same control run as latents are, one pass a placeholder.

    Attention is causal, so it computes what `pause` computes, up to rounding: as many sequential passes as latents
    have, and nothing handed from one to the next but keys and values.
    """

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        token = torch.full(hidden.shape[:-1], model.latent_config.token_ids[1], device=hidden.device)
        return Thought(model.get_input_embeddings()(token))
