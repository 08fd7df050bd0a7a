"""Groups whose rewards are all equal teach nothing. They are kept, left out of the mean, or drawn again."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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


def replace_rows(batch: dict[str, Any], other: dict[str, Any], rows: Tensor, pad_token_id: int) -> dict[str, Any]:
    """Takes some rows (B,) of a batch from another draw of the same questions.

    Args:
        pad_token_id: Fills answers that are shorter than those of the other draw.
    """
    merged = dict(batch)
    for name, values in batch.items():
        if not isinstance(values, Tensor) or values.dim() == 0:
            continue
        theirs = other[name]
        if values.dim() == 2 and values.size(1) != theirs.size(1):  # answers are padded on the right
            fill = pad_token_id if name == "completion_ids" else 0
            width = max(values.size(1), theirs.size(1))
            values, theirs = (F.pad(part, (0, width - part.size(1)), value=fill) for part in (values, theirs))
        merged[name] = torch.where(rows.view(-1, *[1] * (values.dim() - 1)), theirs, values)
    return merged
