"""The loss of PPO's critic, and the values that it is computed from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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


def action_values(state_values: Tensor, is_latent: Tensor, answers: int, most_latents: int) -> Tensor:
    """Values (B, L + A) of the states before each latent and each answer token.

    Args:
        state_values: (B, T) of the state after each column.
        is_latent: (B, P) placeholders among the P columns of the question.
        answers: A, the number of answer columns.
        most_latents: L.
    """
    before = F.pad(state_values, (1, 0))[:, :-1]  # of the state before each column
    row, column = is_latent.nonzero(as_tuple=True)
    turn = (is_latent.cumsum(1) - 1)[row, column]
    latents = before.new_zeros(len(before), most_latents).index_put((row, turn), before[row, column])
    return torch.cat([latents, before[:, -answers:]], 1)
