"""How latents come to be: one pass a latent (`run_passes`), or sweeps over all of them at once (`run_sweeps`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..noise.values import ValueShift
from .decoder import CachedDecoder
from .layout import Layout

Think = Callable[[Tensor, Tensor | None], Tensor]
Branch = Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass
class Packed:
    """A packed batch, ready to run.

    Attributes:
        layout: Of the batch.
        embeds: (B, S, d) embeddings of the packed ids; cells of latent placeholders are replaced.
        position_ids: (B, S) of the packed cells.
        epsilon: (B, L, d) standard draws in each row's own order, or None.
        rows: (N,) repeats rows of the batch after the first pass: N answers share the prefill of B questions. All
            results, and epsilon, are then over N rows.
        spare: Columns to keep free for tokens that follow.
        stop: Says of last hidden states (N, d) which thoughts are complete (N,). Only for rows with one block of
            latents: what comes before its first latent never stops, the latents that are left out are skipped.
        keep_layers: Keep the hidden states of all layers in the last pass.
        shift: Moves the value states of latents, by epsilon.
        watch: Called with the latents (N, d) of each pass and which latent of its row each is, (N,), below 0: none.
        branch: Says which rows go on. Called before each latent with the states (N, d) after the latest one, at first
            after the question, and once more after the last latent. Returns rows (M,), which may repeat, and epsilon
            (M, W) of their next latent or None. Only for rows with one block of equally many latents.
    """

    layout: Layout
    embeds: Tensor
    position_ids: Tensor
    epsilon: Tensor | None = None
    rows: Tensor | None = None
    spare: int = 0
    stop: Callable[[Tensor], Tensor] | None = None
    keep_layers: bool = False
    shift: ValueShift | None = None
    watch: Callable[[Tensor, Tensor], None] | None = None
    branch: Branch | None = None

    def shifted(self, epsilon: Tensor | None, is_latent: Tensor) -> ValueShift | None:
        """The shift of a pass over columns (B, Q), with epsilon (B, Q or 1, W) at its latents."""
        return self.shift.at(epsilon, is_latent) if self.shift is not None and epsilon is not None else None

    def repeat(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """is_token, is_latent, counts, embeds, position_ids over N rows."""
        layout = self.layout
        parts = (layout.is_token, layout.is_latent, layout.counts, self.embeds, self.position_ids)
        return parts if self.rows is None else tuple(part[self.rows] for part in parts)  # type: ignore[return-value]


@dataclass
class PassResult:
    """What the passes leave behind.

    Attributes:
        hidden: (B, S, d) last hidden states in packed order.
        latents: (B, L, d) the vectors fed back, in each row's own order; zero beyond a row's count.
        decoder: Ready for the tokens that follow.
        next_position: (B,) position id of the token that would come next.
        num_latents: (B,) latents made of each row.
        is_token: (B, S) False in packed order where there is padding or a latent that was left out.
    """

    hidden: Tensor
    latents: Tensor
    num_latents: Tensor
    is_token: Tensor
    decoder: CachedDecoder
    next_position: Tensor

    def last_state(self) -> Tensor:
        """(B, d) after each row's last token. Packed order keeps that of the tokens, but padding may follow it."""
        columns = torch.arange(self.is_token.size(1), device=self.hidden.device)
        last = (self.is_token * columns).amax(1)
        return self.hidden[torch.arange(len(last), device=last.device), last]

    def select(self, rows: Tensor) -> PassResult:
        """The same for rows (N,) of the batch, which may repeat. The decoder goes with the result."""
        self.decoder.select(rows)
        return PassResult(
            self.hidden[rows],
            self.latents[rows],
            self.num_latents[rows],
            self.is_token[rows],
            self.decoder,
            self.next_position[rows],
        )


def run_passes(trunk: Any, think: Think, packed: Packed, backprop_steps: int | None = None) -> PassResult:
    """Runs a layout of `plan_passes`. One call is one forward: gradients flow through every latent.

    Args:
        trunk: The decoder without its head.
        think: Makes a latent (B, d) from the last hidden state (B, d) and epsilon (B, d) or None.
        backprop_steps: Only the last so many latents of a row carry a gradient back to the state they were made from.
    """
    layout = packed.layout
    widths = [end - start for start, end in layout.bounds]
    decoder = CachedDecoder(trunk, len(packed.embeds), widths, packed.spare, packed.keep_layers)
    rows = _Rows(decoder, *packed.repeat(), [_first_pass(decoder, packed, pieces=1)], [])
    last = after = rows.hidden[0][:, -1]
    skipping = None
    if packed.stop is not None:
        skipping = _Skipping(packed.stop, rows)
    for index in range(1, len(layout.bounds)):
        part = slice(*layout.bounds[index])
        epsilon = packed.epsilon
        if packed.branch is not None:
            chosen, epsilon = packed.branch(after)
            rows.select(chosen)
            last = last[chosen]
        turn = index - len(layout.bounds) + rows.counts  # (B,) which latent of its row this is; below 0: none
        if skipping is not None:
            skipping.skip(last, turn, part)
        if packed.epsilon is not None:
            epsilon = packed.epsilon[torch.arange(len(turn), device=turn.device), turn.clamp_min(0)]
        z = think(last, epsilon)
        if backprop_steps is not None:
            z = torch.where((turn >= rows.counts - backprop_steps)[:, None], z, z.detach())
        if packed.watch is not None:
            packed.watch(z, turn)
        rows.latents.append(z)
        is_latent = rows.is_latent[:, part]
        x = torch.where(is_latent[..., None], z[:, None].to(rows.embeds.dtype), rows.embeds[:, part])
        shift = packed.shifted(epsilon[:, None] if epsilon is not None else None, is_latent)
        states = decoder(x, rows.is_token[:, part], rows.position_ids[:, part], shift=shift)
        rows.hidden.append(states)
        # A row without a token in this pass keeps the state its next latent is made from.
        keep = states[:, -1]
        all_have = layout.has_tokens[index] and skipping is None
        last = keep if all_have else torch.where(rows.is_token[:, part.stop - 1, None], keep, last)
        after = states[is_latent] if packed.branch is not None else after
    if packed.branch is not None:
        rows.select(packed.branch(after)[0])
    return rows.result(rows.counts if skipping is None else rows.counts - skipping.count)


@dataclass
class _Rows:
    """The rows of a batch between two passes: the parts of `Packed.repeat`, and by pass hidden states and latents."""

    decoder: CachedDecoder
    is_token: Tensor
    is_latent: Tensor
    counts: Tensor
    embeds: Tensor
    position_ids: Tensor
    hidden: list[Tensor]
    latents: list[Tensor]

    def select(self, rows: Tensor) -> None:
        """Goes on with rows (M,), which may repeat."""
        self.decoder.select(rows)
        self.is_token, self.is_latent, self.counts = self.is_token[rows], self.is_latent[rows], self.counts[rows]
        self.embeds, self.position_ids = self.embeds[rows], self.position_ids[rows]
        self.hidden = [states[rows] for states in self.hidden]
        self.latents = [latent[rows] for latent in self.latents]

    def result(self, made: Tensor) -> PassResult:
        """What the passes leave behind, with the latents made of each row (B,)."""
        return PassResult(
            hidden=torch.cat(self.hidden, 1),
            latents=_in_row_order(self.latents, self.counts, made, self.embeds),
            num_latents=made,
            is_token=self.is_token,
            decoder=self.decoder,
            next_position=(self.position_ids * self.is_token).amax(1) + 1,
        )


class _Skipping:
    """Leaves latents out of rows whose thought is complete, and numbers the tokens after them accordingly."""

    def __init__(self, stop: Callable[[Tensor], Tensor], rows: _Rows) -> None:
        self.stop = stop
        rows.is_token, rows.position_ids = rows.is_token.clone(), rows.position_ids.clone()
        self.is_token, self.is_latent, self.position_ids = rows.is_token, rows.is_latent, rows.position_ids
        self.count = torch.zeros_like(rows.counts)  # (B,) latents left out so far

    def skip(self, last: Tensor, turn: Tensor, part: slice) -> None:
        """Leaves out a pass's latents in the rows that are complete. They stay so: their last state does not change.

        Args:
            last: (B, d) last hidden states.
            turn: (B,) which latent of its row the pass would make.
        """
        left_out = self.is_latent[:, part] & (self.stop(last) & (turn > 0))[:, None]
        self.count = self.count + left_out.sum(1)
        self.is_token[:, part] &= ~left_out
        self.position_ids[:, part] = (self.position_ids[:, part] - self.count[:, None]).clamp_min(0)


def run_sweeps(
    trunk: Any, think: Think, packed: Packed, num_sweeps: int, backprop_steps: int | None = None
) -> PassResult:
    """Runs a layout of `plan_sweeps`: Jacobi iteration on all latents at once (PCCoT, arXiv 2506.18582).

    The latents begin as the embedding of their placeholder. A sweep runs the piece that holds them and makes every
    latent anew from the state before it; after sweep t the first t latents of a row are those of `run_passes`. One
    more pass runs the rest of the row with the latents of the last sweep: `num_sweeps` + 1 passes in all.

    Args:
        think: As in `run_passes`, for (B, L, d).
        backprop_steps: Only the latents of the last so many sweeps carry a gradient.
    """
    layout = packed.layout
    (_, begin), (_, end), (_, width) = layout.bounds
    middle, rest, size = slice(begin, end), slice(begin, width), end - begin
    widths = [end, *[size] * (num_sweeps - 1), width - begin]
    decoder = CachedDecoder(trunk, len(packed.embeds), widths, packed.spare, packed.keep_layers)
    is_token, is_latent, counts, embeds, position_ids = packed.repeat()
    is_latent = is_latent[:, middle]
    number = (is_latent.cumsum(1) - 1).clamp_min(0)  # (B, M) which latent a cell is
    # Pieces are padded on the left, so the column before a row's first latent may be padding: the question is.
    is_first = (is_latent & (number == 0))[..., None]
    epsilon = packed.epsilon
    if epsilon is not None:
        epsilon = epsilon.gather(1, number[..., None].expand(-1, -1, epsilon.size(-1)))
    states = _first_pass(decoder, packed, pieces=2)
    question, states = states[:, :begin], states[:, begin:]
    asked = question[:, -1:]
    x = embeds[:, middle]
    for sweep in range(num_sweeps):
        if sweep > 0:
            shift = packed.shifted(epsilon, is_latent)
            states = decoder(x, is_token[:, middle], position_ids[:, middle], shift=shift)
        decoder.hide(begin + sweep * size, begin + (sweep + 1) * size)
        before = torch.cat([asked, states[:, :-1]], 1)  # (B, M, d) the state before each cell
        z = think(torch.where(is_first, asked, before), epsilon)
        if backprop_steps is not None and sweep < num_sweeps - backprop_steps:
            z = z.detach()
        x = torch.where(is_latent[..., None], z.to(embeds.dtype), embeds[:, middle])
    after = (0, width - end)  # columns without latents
    shift = packed.shifted(F.pad(epsilon, (0, 0, *after)) if epsilon is not None else None, F.pad(is_latent, after))
    states = decoder(torch.cat([x, embeds[:, end:]], 1), is_token[:, rest], position_ids[:, rest], shift=shift)
    return PassResult(
        hidden=torch.cat([question, states], 1),
        latents=_latent_cells(x, is_latent, counts),
        num_latents=counts,
        is_token=is_token,
        decoder=decoder,
        next_position=(position_ids * is_token).amax(1) + 1,
    )


def _first_pass(decoder: CachedDecoder, packed: Packed, pieces: int) -> Tensor:
    """Runs the first pieces once for each question; hidden states (N, Q, d) of all rows."""
    layout = packed.layout
    end = layout.bounds[pieces - 1][1]
    is_dense = all(layout.is_dense[:pieces])
    states = decoder(packed.embeds[:, :end], layout.is_token[:, :end], packed.position_ids[:, :end], is_dense)
    if packed.rows is None:
        return states
    decoder.select(packed.rows)
    return states[packed.rows]


def _in_row_order(latents: list[Tensor], counts: Tensor, made: Tensor, embeds: Tensor) -> Tensor:
    """Stacks latents by pass (B, d) each, and shifts every row so that its first latent comes first: (B, L, d).

    Args:
        counts: (B,) latents planned.
        made: (B,) latents made; the rest are zero.
    """
    if not latents:
        return embeds.new_zeros(embeds.size(0), 0, embeds.size(2))
    stacked = torch.stack(latents, 1)
    turn = torch.arange(len(latents), device=counts.device)[None]  # (1, L)
    index = (turn + len(latents) - counts[:, None]).clamp_max(len(latents) - 1)
    return stacked.gather(1, index[..., None].expand_as(stacked)) * (turn < made[:, None])[..., None]


def _latent_cells(x: Tensor, is_latent: Tensor, counts: Tensor) -> Tensor:
    """Collects the latents (B, L, d) from the cells (B, M, d) of their piece."""
    turn = torch.arange(int(counts.max()), device=counts.device)
    order = is_latent.int().argsort(dim=1, descending=True, stable=True)[:, : len(turn)]
    return x.gather(1, order[..., None].expand(-1, -1, x.size(2))) * (turn < counts[:, None])[..., None]
