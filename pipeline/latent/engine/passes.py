"""One pass a latent: each is made from the last hidden state and fed back as the next input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .decoder import CachedDecoder
from .packed import (
    KEEP_NOTHING,
    NO_DRAWS,
    NOTHING_BETWEEN,
    Between,
    Draws,
    Keep,
    Packed,
    PassResult,
    Stop,
    Think,
    next_position,
    run_first,
)
from .room import Room


def run_passes(
    trunk: Any,
    think: Think,
    packed: Packed,
    draws: Draws = NO_DRAWS,
    between: Between = NOTHING_BETWEEN,
    keep: Keep = KEEP_NOTHING,
    backprop_steps: int | None = None,
) -> PassResult:
    """Runs a layout of `plan_passes`: the question, then one pass for each latent with the tokens after it.

    One call is one forward, and gradients flow through every latent.

    Args:
        trunk: The decoder without its head.
        backprop_steps: The last latents of a row that carry a gradient to the state they were made from; None: all.
    """
    layout = packed.layout
    widths = [end - start for start, end in layout.bounds]
    room = Room.of(widths, packed.visibility, layout.counts, keep.spare)
    decoder = CachedDecoder(
        trunk,
        packed.num_questions,
        widths,
        keep.spare,
        keep.layers,
        packed.visibility,
        room,
        packed.num_rows,
    )
    rows = _Rows(decoder, *packed.repeat(), [run_first(decoder, packed, 1, draws)], [])
    last = after = rows.hidden[0][:, -1]
    skipping = _Skipping(between.stop, rows) if between.stop is not None else None
    for index in range(1, len(layout.bounds)):
        part = slice(*layout.bounds[index])
        epsilon = None
        if between.branch is not None:
            chosen, epsilon = between.branch(after)
            rows.select(chosen)
            last = last[chosen]
        turn = index - len(layout.bounds) + rows.counts  # (N,) index of the latent in its row; below 0: none
        if skipping is not None:
            skipping.skip(last, turn, part)
        if draws.epsilon is not None:
            epsilon = draws.epsilon[torch.arange(len(turn), device=turn.device), turn.clamp_min(0)]
        z = think(last, epsilon, None)
        if backprop_steps is not None:
            z = torch.where((turn >= rows.counts - backprop_steps)[:, None], z, z.detach())
        if between.watch is not None:
            between.watch(z, turn)
        rows.latents.append(z)
        is_latent = rows.is_latent[:, part]
        x = torch.where(is_latent[..., None], z[:, None].to(rows.embeds.dtype), rows.embeds[:, part])
        shift = draws.shift_at(epsilon[:, None] if epsilon is not None else None, rows.is_latent, part)
        states = decoder(x, rows.is_token[:, part], rows.position_ids[:, part], shift=shift, is_latent=is_latent)
        rows.hidden.append(states)
        # A row without a token in this pass keeps the state its next latent is made from.
        newest = states[:, -1]
        all_have = layout.has_tokens[index] and skipping is None
        last = newest if all_have else torch.where(rows.is_token[:, part.stop - 1, None], newest, last)
        after = states[is_latent] if between.branch is not None else after
    if between.branch is not None:
        rows.select(between.branch(after)[0])
    return rows.result(rows.counts if skipping is None else rows.counts - skipping.count)


def run_split(trunk: Any, packed: Packed) -> Tensor:
    """Runs a layout of `plan_split`, in which nothing is fed back: hidden states (B, S, d) in packed order."""
    layout = packed.layout
    widths = [end - start for start, end in layout.bounds]
    decoder = CachedDecoder(
        trunk, packed.num_questions, widths, visibility=packed.visibility, later_rows=packed.num_rows
    )
    states = run_first(decoder, packed, pieces=1)
    is_token, is_latent, _, embeds, position_ids = packed.repeat()
    rest = slice(*layout.bounds[1])
    after = decoder(embeds[:, rest], is_token[:, rest], position_ids[:, rest], is_latent=is_latent[:, rest])
    return torch.cat([states, after], 1)


@dataclass
class _Rows:
    """The rows of a batch between two passes: `Packed.repeat`, and the states and latents of each pass."""

    decoder: CachedDecoder
    is_token: Tensor
    is_latent: Tensor
    counts: Tensor
    embeds: Tensor
    position_ids: Tensor
    hidden: list[Tensor]
    latents: list[Tensor]

    def select(self, rows: Tensor) -> None:
        """Keeps rows (M,), which may repeat."""
        self.decoder.select(rows)
        self.is_token, self.is_latent, self.counts = self.is_token[rows], self.is_latent[rows], self.counts[rows]
        self.embeds, self.position_ids = self.embeds[rows], self.position_ids[rows]
        self.hidden = [states[rows] for states in self.hidden]
        self.latents = [latent[rows] for latent in self.latents]

    def result(self, made: Tensor) -> PassResult:
        """The result. `made` (N,) are the latents made of each row."""
        return PassResult(
            hidden=torch.cat(self.hidden, 1),
            latents=_in_row_order(self.latents, self.counts, made, self.embeds),
            num_latents=made,
            is_token=self.is_token,
            decoder=self.decoder,
            next_position=next_position(self.position_ids, self.is_token),
        )


class _Skipping:
    """Leaves latents out of rows whose thought is complete, and renumbers the tokens that follow."""

    def __init__(self, stop: Stop, rows: _Rows) -> None:
        self.stop = stop
        rows.is_token, rows.position_ids = rows.is_token.clone(), rows.position_ids.clone()
        self.is_token, self.is_latent, self.position_ids = rows.is_token, rows.is_latent, rows.position_ids
        self.count = torch.zeros_like(rows.counts)  # (N,) latents left out so far

    def skip(self, last: Tensor, turn: Tensor, part: slice) -> None:
        """Leaves out the latents of a pass in rows that are complete. These stay so: their last state does not change,
        and decisions that were drawn are remembered by `StopDraws`.

        Args:
            last: (N, d) last hidden states.
            turn: (N,) index in its row of the latent that the pass would make.
        """
        left_out = self.is_latent[:, part] & (self.stop(last, turn) & (turn > 0))[:, None]
        self.count = self.count + left_out.sum(1)
        self.is_token[:, part] &= ~left_out
        self.position_ids[:, part] = (self.position_ids[:, part] - self.count[:, None]).clamp_min(0)


def _in_row_order(latents: list[Tensor], counts: Tensor, made: Tensor, embeds: Tensor) -> Tensor:
    """Stacks the latents (N, d) of each pass and shifts every row so that its first latent comes first: (N, L, d).

    Args:
        counts: (N,) latents planned.
        made: (N,) latents made. The others are zero.
    """
    if not latents:
        return embeds.new_zeros(embeds.size(0), 0, embeds.size(2))
    stacked = torch.stack(latents, 1)
    turn = torch.arange(len(latents), device=counts.device)[None]  # (1, L)
    index = (turn + len(latents) - counts[:, None]).clamp_max(len(latents) - 1)
    return stacked.gather(1, index[..., None].expand_as(stacked)) * (turn < made[:, None])[..., None]
