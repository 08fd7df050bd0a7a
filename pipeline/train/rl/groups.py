"""Groups of rollouts of one question: which of them teach nothing, and their order in the micro-batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Groups whose rewards are all equal teach nothing. They are kept, left out of the mean, or drawn again.
RESAMPLES = 2  # times a batch is drawn again, at most


def fill_unscored(rewards: Tensor, is_scored: Tensor) -> tuple[Tensor, Tensor]:
    """Fills in rewards (P, G) that are missing, since every reward function gave None, by the mean of their group."""
    means = (rewards * is_scored).sum(1, keepdim=True) / is_scored.sum(1, keepdim=True).clamp_min(1)
    return torch.where(is_scored, rewards, means), is_scored


def equal_groups(rewards: Tensor) -> Tensor:
    """Which groups (P,) of rewards (P, G) have no variance."""
    return torch.isclose(rewards, rewards[:, :1]).all(1)


def mixed_share(rewards: Tensor) -> float:
    """Share of groups whose rewards (P, G) differ. Dividing by it turns a mean over all groups into one over these.

    At least one group counts, so that nothing is divided by 0.
    """
    return max(1, int((~equal_groups(rewards)).sum())) / len(rewards)


def shuffle_groups(batch: dict[str, Any]) -> dict[str, Any]:
    """Takes the rows (B, ...) of a batch in another order, in which rollouts of one question stay side by side.

    TRL shuffles row by row, so that a micro-batch holds a few rollouts of many questions, and each of them runs its
    question again. Here it holds many rollouts of few questions. The sum over all micro-batches of a generation is the
    same; where they make several updates, an update sees whole groups, whose advantages cancel out, of fewer questions.

    Args:
        batch: With `questions` (B,), the question of each rollout.
    """
    asked = batch["questions"]
    is_new = torch.cat([asked.new_ones(1, dtype=torch.bool), asked[1:] != asked[:-1]])
    place = torch.randperm(int(is_new.sum()))[is_new.cpu().cumsum(0) - 1]  # of the group of each row
    order = place.argsort(stable=True)

    def ordered(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[order.to(values.device)] if values.dim() else values
        return [values[row] for row in order.tolist()] if isinstance(values, list) else values

    return {name: ordered(values) for name, values in batch.items()}


def replace_rows(batch: dict[str, Any], other: dict[str, Any], rows: Tensor, pad_token_id: int) -> dict[str, Any]:
    """Takes some rows (B,) of a batch from another draw of the same questions.

    Args:
        pad_token_id: Fills questions and answers that are shorter than those of the other draw.
    """
    merged = dict(batch)
    for name, values in batch.items():
        if not isinstance(values, Tensor) or values.dim() == 0:
            continue
        theirs = other[name]
        if values.dim() == 2 and values.size(1) != theirs.size(1):
            fill = pad_token_id if name in ("prompt_ids", "completion_ids") else 0
            width = max(values.size(1), theirs.size(1))
            values, theirs = (F.pad(part, _beside(name, width - part.size(1)), value=fill) for part in (values, theirs))
        merged[name] = torch.where(rows.view(-1, *[1] * (values.dim() - 1)), theirs, values)
    return merged


def _beside(name: str, room: int) -> tuple[int, int]:
    """Padding of a column of TRL's batch: questions are padded on the left, all else on the right."""
    return (room, 0) if name in ("prompt_ids", "prompt_mask") else (0, room)
