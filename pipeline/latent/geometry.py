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
        rows: (B,) question of each rollout. On the CPU it costs the latents' device no synchronisation.
        num_latents: (B,) latents of each rollout; None: L.
    """
    questions, rows = int(rows.max()) + 1, rows.to(latents.device)
    units = torch.nn.functional.normalize(latents.float(), dim=-1)
    has = torch.ones_like(units[..., 0])
    if num_latents is not None:
        has = (torch.arange(latents.size(1), device=rows.device)[None] < num_latents[:, None]).to(units)  # (B, L)
    count = has.new_zeros(questions, has.size(1)).index_add(0, rows, has)  # (questions, L)
    total = units.new_zeros(questions, *units.shape[1:]).index_add(0, rows, units * has[..., None])
    cosines = total.pow(2).sum(-1) - count
    return torch.stack([cosines.sum(0).mean(), (count * (count - 1)).sum(0).mean()])


def effective_ranks(latents: Float[Tensor, "B L d"]) -> Float[Tensor, " L"]:
    """exp(entropy of the normalised singular values) of the centred latents at each place, in float64.

    The squared singular values are the eigenvalues of the smaller Gram matrix, (B, B) or (d, d), which take a fraction
    of the time of a decomposition of (B, d). In float64 the square loses nothing that float32 latents hold.

    Returns:
        1 where all latents of a place are equal, NaN where one is not finite.
    """
    places = latents.transpose(0, 1).double()  # (L, B, d)
    centred = places - places.mean(1, keepdim=True)
    wide = centred.size(1) <= centred.size(2)
    gram = centred @ centred.mT if wide else centred.mT @ centred  # (L, n, n)
    is_finite = gram.isfinite().all(-1).all(-1)
    squares = torch.linalg.eigvalsh(torch.where(is_finite[:, None, None], gram, 0.0))  # (L, n), ascending
    # What lies within the rounding of the largest is 0; its root would be eight digits larger and count.
    rounding = squares[:, -1:] * torch.finfo(squares.dtype).eps * squares.size(1)
    values = torch.where(squares > rounding, squares, 0.0).sqrt()
    shares = values / values.sum(-1, keepdim=True).clamp_min(1e-300)
    ranks = torch.special.entr(shares).sum(-1).exp()
    return torch.where(is_finite, ranks, torch.nan)
