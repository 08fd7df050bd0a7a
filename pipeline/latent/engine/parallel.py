"""All latents at once, refined in a fixed number of passes: Jacobi sweeps, or loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import LatentConfig
from .decoder import CachedDecoder
from .packed import (
    KEEP_NOTHING,
    NO_DRAWS,
    Draws,
    Keep,
    Packed,
    PassResult,
    Think,
    Watch,
    next_position,
    run_first,
)


@dataclass(frozen=True)
class Refinement:
    """How all latents are made anew from one pass to the next.

    Attributes:
        rounds: How often.
        in_place: A latent is made from the state at its own position (a loop), not from that before it (a Jacobi
            sweep).
        adds: The thought is added to the embedding of the placeholder, which it else replaces.
    """

    rounds: int
    in_place: bool = False
    adds: bool = False

    @classmethod
    def of(cls, config: LatentConfig, num_latents: int) -> Refinement | None:
        """That of a latent section; None where latents are made one after the other, or there are none."""
        if num_latents == 0 or config.mode == "sequential":
            return None
        if config.loops is not None:
            return cls(config.loops, in_place=True, adds=config.injection == "add")
        assert config.jacobi_sweeps is not None
        return cls(min(config.jacobi_sweeps, num_latents))  # as many as latents are exact; more change nothing


def pass_widths(pieces: Sequence[int], rounds: int) -> list[int]:
    """Columns of each of the `rounds` + 1 passes over the three pieces of a layout, of so many columns each."""
    question, middle, rest = pieces
    return [question + middle, *[middle] * (rounds - 1), middle + rest]


def run_parallel(
    trunk: Any,
    think: Think,
    packed: Packed,
    refinement: Refinement,
    draws: Draws = NO_DRAWS,
    keep: Keep = KEEP_NOTHING,
    backprop_steps: int | None = None,
    watch: Watch | None = None,
) -> PassResult:
    """Runs a layout of `plan_parallel`: the latents begin as their placeholder's embedding e, and are refined together.

    - Jacobi sweeps (PCCoT, arXiv 2506.18582): x_t = s(h_{t-1}), where h is the last hidden state of the pass before
      and s the thought source. After sweep r the first r latents of a row equal those of `run_passes`.
    - Loops (LOTUS, arXiv 2606.31779): x_t = e + s(h_t), or s(h_t) where nothing is added.

    A pass sees the question and the latents of the same pass. The last pass also runs the rest of the row, which so
    sees the latents of the last round alone. There are `rounds` + 1 passes.

    Args:
        trunk: The decoder without its head.
        backprop_steps: The last rounds whose latents carry a gradient; None: all.
        watch: Called with the latents of the last round.
    """
    layout, rounds = packed.layout, refinement.rounds
    (_, begin), (_, end), (_, width) = layout.bounds
    middle, rest, size = slice(begin, end), slice(begin, width), end - begin
    widths = pass_widths([begin, size, width - end], rounds)
    decoder = CachedDecoder(trunk, packed.num_questions, widths, keep.spare, keep.layers, later_rows=packed.num_rows)
    is_token, is_latent, counts, embeds, position_ids = packed.repeat()
    holds_latent, is_latent = is_latent, is_latent[:, middle]
    number = (is_latent.cumsum(1) - 1).clamp_min(0)  # (N, M) index of the latent in its row
    states = run_first(decoder, packed, 2, draws)
    question, states = states[:, :begin], states[:, begin:]
    # Pieces are padded on the left, so the column before a row's first latent may be padding: the question is.
    asked, is_first = question[:, -1:], (is_latent & (number == 0))[..., None]
    x, epsilon = embeds[:, middle], None
    kept: list[Tensor] = []
    for index in range(rounds):
        if index > 0:
            shift = draws.shift_at(epsilon, holds_latent, middle)
            states = decoder(x, is_token[:, middle], position_ids[:, middle], shift=shift)
        decoder.hide(begin + index * size, begin + (index + 1) * size)
        if keep.rounds:
            kept.append(_latent_cells(_states_before(states, asked, is_first), is_latent, counts))
        if not refinement.in_place:
            states = _states_before(states, asked, is_first)
        epsilon = draws.of_round(index, number)
        z = think(states, epsilon, embeds[:, middle] if refinement.adds else None)  # (N, M, d)
        if backprop_steps is not None and index < rounds - backprop_steps:
            z = z.detach()
        x = torch.where(is_latent[..., None], z.to(embeds.dtype), embeds[:, middle])
    if watch is not None:
        x = x.flatten(0, 1)  # what is watched must be on the way to the states
        watch(x, torch.where(is_latent, number, -1).flatten())
        x = x.view_as(embeds[:, middle])
    if epsilon is not None:
        epsilon = F.pad(epsilon, (0, 0, 0, width - end))  # columns without latents
    shift = draws.shift_at(epsilon, holds_latent, rest)
    states = decoder(torch.cat([x, embeds[:, end:]], 1), is_token[:, rest], position_ids[:, rest], shift=shift)
    return PassResult(
        hidden=torch.cat([question, states], 1),
        latents=_latent_cells(x, is_latent, counts),
        num_latents=counts,
        is_token=is_token,
        decoder=decoder,
        next_position=next_position(position_ids, is_token),
        rounds=tuple(kept),
    )


def _states_before(states: Tensor, asked: Tensor, is_first: Tensor) -> Tensor:
    """The state (N, M, d) before each cell of the piece with the latents.

    Args:
        asked: (N, 1, d) the state at the end of the question.
        is_first: (N, M, 1) True at the first latent of a row.
    """
    return torch.where(is_first, asked, torch.cat([asked, states[:, :-1]], 1))


def _latent_cells(x: Tensor, is_latent: Tensor, counts: Tensor) -> Tensor:
    """Collects the latents (N, L, d) from the cells (N, M, d) of their piece."""
    turn = torch.arange(int(counts.max()), device=counts.device)
    order = is_latent.int().argsort(dim=1, descending=True, stable=True)[:, : len(turn)]
    return x.gather(1, order[..., None].expand(-1, -1, x.size(2))) * (turn < counts[:, None])[..., None]
