"""Generalised advantage estimates (arXiv 1506.02438) over latents and answer tokens alike."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns (B, S): A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t.

    Args:
        rewards: (B, S) for each step.
        values: (B, S) of the state that each step was taken in.
        mask: (B, S) 1 at steps; what lies between them is passed over. After the last step the value is 0.
    """
    steps = mask.bool()
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])  # V_{t+1}
    carried = torch.zeros_like(following)  # A_{t+1}
    for t in reversed(range(values.size(1))):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = delta + gamma * lam * carried
        advantages[:, t] = torch.where(steps[:, t], advantage, 0.0)
        following = torch.where(steps[:, t], values[:, t], following)
        carried = torch.where(steps[:, t], advantage, carried)
    return advantages, (advantages + values) * steps
