"""Latents as actions of a rollout, beside its answer tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def latent_mask(rollouts: dict[str, Any], latent_id: int, most_latents: int) -> Tensor:
    """Mask (B, L) of the latents that each rollout has; none where its answer is masked out.

    Args:
        rollouts: TRL's batch, of which `prompt_ids` (B, P) and `completion_mask` (B, A) are read.
        latent_id: Token id of the placeholder.
    """
    answers = rollouts["completion_mask"]
    counts = (rollouts["prompt_ids"] == latent_id).sum(1, keepdim=True) * answers.any(1, keepdim=True)
    return (torch.arange(most_latents, device=answers.device)[None] < counts).to(answers)


def with_latents(rollouts: dict[str, Any], is_latent: Tensor) -> dict[str, Any]:
    """TRL's batch with the latents as actions behind the answer tokens. TRL computes ratios and a loss for both.

    Args:
        rollouts: With `latents`, and the densities and advantages of latents where there are any.
        is_latent: (B, L) the latents that count.
    """
    room = (0, is_latent.size(1))
    extended = {
        **rollouts,
        "completion_ids": F.pad(rollouts["completion_ids"], room),
        "completion_mask": torch.cat([rollouts["completion_mask"], is_latent], 1),
    }
    if "latent_advantages" in rollouts:
        advantages, answers = rollouts["advantages"], rollouts["completion_ids"].size(1)
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand(-1, answers)
        extended["advantages"] = torch.cat([advantages, rollouts["latent_advantages"]], 1)
    if "old_per_token_logps" in rollouts:
        extended["old_per_token_logps"] = torch.cat([rollouts["old_per_token_logps"], rollouts["old_latent_logps"]], 1)
    for name in ("ref_per_token_logps", "sampling_per_token_logps"):
        if name in rollouts:
            extended[name] = F.pad(rollouts[name], room)
    return extended
