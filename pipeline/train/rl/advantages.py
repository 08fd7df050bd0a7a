"""What the rewards of a group are worth to its rollouts, beyond the advantages of GRPO."""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from .estimators import EstimatorError


def max_at_k_advantages(rewards: Tensor, k: int) -> Tensor:
    """Advantages (P, G) whose gradient is that of E[max of k rewards], from groups (P, G) of rewards.

    A_i = E[max(r_i, k - 1 others)] - E[max of k others], over subsets of the other rollouts of the group: what rollout
    i adds, against a baseline that it has no part in. For k = 1 that is RLOO. Unbiased up to the factor k (the
    estimators of arXiv 2505.15201 with a baseline of the others).

    Raises:
        EstimatorError: k is no number from 1 to G - 1.
    """
    size = rewards.size(1)
    if not 1 <= k < size:
        raise EstimatorError(f"max_at={k} must lie between 1 and {size - 1}, one less than the group has rollouts.")
    others = torch.stack([rewards[:, [j for j in range(size) if j != i]] for i in range(size)], 1)  # (P, G, G - 1)
    others = others.sort(-1).values
    baseline = (others * _max_weights(size - 1, k).to(rewards)).sum(-1)
    if k == 1:
        return rewards - baseline
    best = torch.maximum(rewards[..., None], others)
    return (best * _max_weights(size - 1, k - 1).to(rewards)).sum(-1) - baseline


def thought_advantages(advantages: Tensor, group: int, answers: int) -> Tensor:
    """Advantages (B,) of thoughts, for each rollout that of its thought: its answers against the other thoughts.

    The mean of the whole group would hold answers after the same latents, which would take a share
    (answers - 1) / (group - 1) from their gradient.

    Args:
        advantages: (B,) of rollouts against the mean of their group.
        group: Rollouts of a question.
        answers: Answers in a row that share a thought.
    """
    thoughts = group // answers
    means = advantages.view(-1, answers).mean(1) * (thoughts / max(thoughts - 1, 1))
    return means.repeat_interleave(answers)


def _max_weights(n: int, k: int) -> Tensor:
    """Chance (n,) that each of n values, in ascending order, is the largest of k drawn without replacement."""
    return torch.tensor([comb(rank, k - 1) / comb(n, k) for rank in range(n)], dtype=torch.float64)
