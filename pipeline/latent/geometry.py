"""How similar latents are to one another."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cosine_sums(
    latents: Float[Tensor, "B L d"], rows: Int[Tensor, " B"], num_latents: Int[Tensor, " B"] | None = None
) -> Tensor:
    """The sum of cosines between latents of two rollouts of one question, and the number of such pairs: (2,).

    Both are averaged over the L places of a thought. Where thoughts differ in length, a pair is counted at the places
    that both have.

    Args:
        rows: (B,) question of each rollout.
        num_latents: (B,) latents of each rollout; None: L.
    """
    units, rows = torch.nn.functional.normalize(latents.float(), dim=-1), rows.to(latents.device)
    has = torch.ones_like(units[..., 0])
    if num_latents is not None:
        has = (torch.arange(latents.size(1), device=rows.device)[None] < num_latents[:, None]).to(units)  # (B, L)
    questions = int(rows.max()) + 1
    count = has.new_zeros(questions, has.size(1)).index_add(0, rows, has)  # (questions, L)
    total = units.new_zeros(questions, *units.shape[1:]).index_add(0, rows, units * has[..., None])
    cosines = total.pow(2).sum(-1) - count
    return torch.stack([cosines.sum(0).mean(), (count * (count - 1)).sum(0).mean()])


def effective_ranks(latents: Float[Tensor, "B L d"]) -> Float[Tensor, " L"]:
    """exp(entropy of the normalised singular values) of the centred latents at each place."""
    values = torch.linalg.svdvals(latents.transpose(0, 1) - latents.mean(0)[:, None])  # (L, min(B, d))
    shares = values / values.sum(-1, keepdim=True).clamp_min(1e-12)
    return (-(shares * shares.clamp_min(1e-12).log()).sum(-1)).exp()
