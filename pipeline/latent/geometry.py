"""How similar latents are to one another."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cosine_sums(latents: Float[Tensor, "B L d"], rows: Int[Tensor, " B"]) -> Tensor:
    """The sum of cosines between latents of two rollouts of one question, and the number of such pairs: (2,).

    Cosines are averaged over the L places of a thought.

    Args:
        rows: (B,) question of each rollout.
    """
    units, rows = torch.nn.functional.normalize(latents.float(), dim=-1), rows.to(latents.device)
    count = torch.zeros(int(rows.max()) + 1, device=rows.device).index_add(0, rows, torch.ones_like(rows).float())
    total = units.new_zeros(len(count), *units.shape[1:]).index_add(0, rows, units)  # (questions, L, d)
    cosines = (total.pow(2).sum(-1) - count[:, None]).sum(0).mean()
    return torch.stack([cosines, (count * (count - 1)).sum()])


def effective_ranks(latents: Float[Tensor, "B L d"]) -> Float[Tensor, " L"]:
    """exp(entropy of the normalised singular values) of the centred latents at each place."""
    values = torch.linalg.svdvals(latents.transpose(0, 1) - latents.mean(0)[:, None])  # (L, min(B, d))
    shares = values / values.sum(-1, keepdim=True).clamp_min(1e-12)
    return (-(shares * shares.clamp_min(1e-12).log()).sum(-1)).exp()
