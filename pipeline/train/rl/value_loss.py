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


def and_next(is_latent: Tensor) -> Tensor:
    """Mask (B, S) that is also set behind each latent of `is_latent` (B, S): at what the last one is followed by."""
    return is_latent | F.pad(is_latent, (1, 0))[:, :-1]


def action_values(
    state_values: Tensor, is_latent: Tensor, answers: int, most_latents: int, decides: bool = False
) -> Tensor:
    """Values (B, L + A) of the states before each latent and each answer token.

    Args:
        state_values: (B, T) of the state after each column.
        is_latent: (B, P) placeholders among the P columns of the question.
        answers: A, the number of answer columns.
        most_latents: L.
        decides: A stop head ends thoughts. Behind the latents of a thought of fewer than L stands the value of the
            state in which it decided to stop.
    """
    before = F.pad(state_values, (1, 0))[:, :-1]  # of the state before each column
    is_step = F.pad(is_latent, (0, before.size(1) - is_latent.size(1)))
    if decides:
        is_step = and_next(is_step)
    row, column = is_step.nonzero(as_tuple=True)
    turn = (is_step.cumsum(1) - 1)[row, column]
    thought = before.new_zeros(len(before), most_latents + 1).index_put((row, turn), before[row, column])
    return torch.cat([thought[:, :most_latents], before[:, -answers:]], 1)
