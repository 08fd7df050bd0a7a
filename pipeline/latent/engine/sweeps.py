"""Jacobi sweeps: all latents at once, in a fixed number of fixed-point iterations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoder import CachedDecoder
from .packed import (
    KEEP_NOTHING,
    NO_DRAWS,
    Draws,
    Keep,
    Packed,
    PassResult,
    Think,
    next_position,
    run_first,
)


def run_sweeps(
    trunk: Any,
    think: Think,
    packed: Packed,
    num_sweeps: int,
    draws: Draws = NO_DRAWS,
    keep: Keep = KEEP_NOTHING,
    backprop_steps: int | None = None,
) -> PassResult:
    """Runs a layout of `plan_sweeps`: Jacobi iteration on all latents at once (PCCoT, arXiv 2506.18582).

    The latents begin as the embedding of their placeholder. A Jacobi sweep runs the piece that holds the latents and
    makes each of them anew from the state before it. After sweep t the first t latents of a row equal those of
    `run_passes`. One more pass runs the rest of the row, so there are `num_sweeps` + 1 passes.

    Args:
        trunk: The decoder without its head.
        backprop_steps: The last sweeps whose latents carry a gradient; None: all.
    """
    layout = packed.layout
    (_, begin), (_, end), (_, width) = layout.bounds
    middle, rest, size = slice(begin, end), slice(begin, width), end - begin
    widths = [end, *[size] * (num_sweeps - 1), width - begin]
    decoder = CachedDecoder(trunk, len(packed.embeds), widths, keep.spare, keep.layers)
    is_token, is_latent, counts, embeds, position_ids = packed.repeat()
    is_latent = is_latent[:, middle]
    number = (is_latent.cumsum(1) - 1).clamp_min(0)  # (N, M) index of the latent in its row
    # Pieces are padded on the left, so the column before a row's first latent may be padding: the question is.
    is_first = (is_latent & (number == 0))[..., None]
    epsilon = draws.epsilon
    if epsilon is not None:
        epsilon = epsilon.gather(1, number[..., None].expand(-1, -1, epsilon.size(-1)))
    states = run_first(decoder, packed, pieces=2)
    question, states = states[:, :begin], states[:, begin:]
    asked = question[:, -1:]
    x = embeds[:, middle]
    for sweep in range(num_sweeps):
        if sweep > 0:
            shift = draws.shift_at(epsilon, is_latent)
            states = decoder(x, is_token[:, middle], position_ids[:, middle], shift=shift)
        decoder.hide(begin + sweep * size, begin + (sweep + 1) * size)
        before = torch.cat([asked, states[:, :-1]], 1)  # (N, M, d) the state before each cell
        z = think(torch.where(is_first, asked, before), epsilon)
        if backprop_steps is not None and sweep < num_sweeps - backprop_steps:
            z = z.detach()
        x = torch.where(is_latent[..., None], z.to(embeds.dtype), embeds[:, middle])
    after = (0, width - end)  # columns without latents
    shift = draws.shift_at(F.pad(epsilon, (0, 0, *after)) if epsilon is not None else None, F.pad(is_latent, after))
    states = decoder(torch.cat([x, embeds[:, end:]], 1), is_token[:, rest], position_ids[:, rest], shift=shift)
    return PassResult(
        hidden=torch.cat([question, states], 1),
        latents=_latent_cells(x, is_latent, counts),
        num_latents=counts,
        is_token=is_token,
        decoder=decoder,
        next_position=next_position(position_ids, is_token),
    )


def _latent_cells(x: Tensor, is_latent: Tensor, counts: Tensor) -> Tensor:
    """Collects the latents (N, L, d) from the cells (N, M, d) of their piece."""
    turn = torch.arange(int(counts.max()), device=counts.device)
    order = is_latent.int().argsort(dim=1, descending=True, stable=True)[:, : len(turn)]
    return x.gather(1, order[..., None].expand(-1, -1, x.size(2))) * (turn < counts[:, None])[..., None]
