"""How similar latents are to one another."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cosine_sums(latents: Float[Tensor, "B L d"], rows: Int[Tensor, " B"]) -> Tensor:
    """The sum of cosines between latents of two rollouts of one question, and the number of such pairs: (2,).

    Cosines are averaged over the L places of a thought.

    Args:
        rows: (B,) question of each rollout. On the CPU it costs the latents' device no synchronisation.
    """
    questions, rows = int(rows.max()) + 1, rows.to(latents.device)
    units = torch.nn.functional.normalize(latents.float(), dim=-1)
    count = torch.zeros(questions, device=rows.device).index_add(0, rows, torch.ones_like(rows).float())
    total = units.new_zeros(len(count), *units.shape[1:]).index_add(0, rows, units)  # (questions, L, d)
    cosines = (total.pow(2).sum(-1) - count[:, None]).sum(0).mean()
    return torch.stack([cosines, (count * (count - 1)).sum()])


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
