"""The loss of PPO's critic, and the values that it is computed from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...latent.value_head import thought_values


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Sum over actions of max((V - R)², (V_clipped - R)²) / 2, with V_clipped = V_old + clamp(V - V_old, ±clip).

    The clipped value loss of PPO as in OpenAI's baselines (pposgd, ppo2).

    Args:
        values: (B, S) V now.
        old: (B, S) V_old, of the weights that drew the rollouts.
        returns: (B, S) R.
        mask: (B, S) 1 at actions.
        clip: Largest change of a value that counts.
    """
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * (torch.maximum((values - returns).pow(2), (clipped - returns).pow(2)) * mask).sum()


def action_values(
    state_values: Tensor, is_latent: Tensor, answers: int, most_latents: int, decides: bool = False
) -> Tensor:
    """Values (B, L + A) of the states before each latent and each answer token.

    Args:
        state_values: (B, T) of the state after each column.
        is_latent: (B, P) placeholders among the P columns of the question.
        answers: A, the number of answer columns.
        most_latents, decides: As in `thought_values`.
    """
    is_latent = F.pad(is_latent, (0, state_values.size(1) - is_latent.size(1)))
    thought = thought_values(state_values, is_latent, most_latents, decides)
    return torch.cat([thought, state_values[:, -answers - 1 : -1]], 1)
