"""Latents, and decisions of the stop head, as actions of a rollout beside its answer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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


def stop_mask(rollouts: dict[str, Any], latent_id: int, most_latents: int) -> Tensor:
    """Mask (B, L - 1) of the decisions of each rollout's stop head: one after each latent, but none after the L-th.

    Args:
        rollouts, latent_id: As in `latent_mask`.
    """
    return latent_mask(rollouts, latent_id, most_latents - 1)


def shortened(prompt_ids: Sequence[list[int]], num_latents: Sequence[int], latent_id: int) -> list[list[int]]:
    """Prompts with as many placeholders, those of one block, as the thoughts took latents."""
    short = []
    for ids, count in zip(prompt_ids, num_latents, strict=True):
        first = ids.index(latent_id)
        short.append(ids[: first + count] + ids[first + ids.count(latent_id) :])
    return short


def with_actions(rollouts: dict[str, Any], is_action: Tensor, kind: Literal["latent", "stop"]) -> dict[str, Any]:
    """TRL's batch with further actions behind those it has. TRL computes ratios and a loss for all of them.

    Args:
        rollouts: With `old_{kind}_logps` where it has `old_per_token_logps`. `{kind}_advantages`, where there are any,
            take the place of the rollout's own.
        is_action: (B, K) the actions that count.
    """
    room, own = (0, is_action.size(1)), f"{kind}_advantages"
    extended = {
        **rollouts,
        "completion_ids": F.pad(rollouts["completion_ids"], room),
        "completion_mask": torch.cat([rollouts["completion_mask"], is_action], 1),
    }
    if own in rollouts:
        advantages, others = rollouts["advantages"], rollouts["completion_ids"].size(1)
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand(-1, others)
        extended["advantages"] = torch.cat([advantages, rollouts[own]], 1)
    if "old_per_token_logps" in rollouts:
        extended["old_per_token_logps"] = torch.cat([rollouts["old_per_token_logps"], rollouts[f"old_{kind}_logps"]], 1)
    for name in ("ref_per_token_logps", "sampling_per_token_logps"):
        if name in rollouts:
            extended[name] = F.pad(rollouts[name], room)
    return extended
