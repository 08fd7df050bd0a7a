"""A packed batch as the passes take it, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..noise.values import ValueShift
from .columns import Visibility
from .decoder import CachedDecoder
from .layout import Layout

# Makes latents (..., d) from last hidden states (..., d), their draws epsilon or None without noise, and the embedding
# (..., d) that is added to them, or None.
Think = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
Branch = Callable[[Tensor], tuple[Tensor, Tensor | None]]
# Says which thoughts (N,) are complete, from their last hidden states (N, d) and how many latents (N,) they have.
Stop = Callable[[Tensor, Tensor], Tensor]
# Sees latents (N, d) as they are fed back, and the index (N,) of each in its row, below 0 for none.
Watch = Callable[[Tensor, Tensor], None]


class SharedQuestions(NamedTuple):
    """Rows of a batch that begin alike.

    Attributes:
        first: (P,) a row of each question.
        of: (B,) the question of each row, an index into `first`.
    """

    first: Tensor
    of: Tensor

    @classmethod
    def among(cls, beginnings: Tensor) -> SharedQuestions | None:
        """Finds rows (B, Q) that are equal; None where all differ."""
        _, of = beginnings.unique(dim=0, return_inverse=True)
        places = torch.arange(len(of), device=of.device)
        count = int(of.max()) + 1
        if count == len(of):
            return None
        first = places.new_full((count,), len(of)).scatter_reduce_(0, of, places, "amin")
        return cls(first, of)


@dataclass(frozen=True)
class Packed:
    """What is fed to the passes.

    Attributes:
        layout: Packed order of the batch of B rows.
        embeds: (B, S, d) embeddings of the packed ids. Those of placeholders are replaced by latents.
        position_ids: (B, S) of the packed cells.
        rows: (N,) repeats rows of the batch after the first pass, so that N answers share the prefill of B questions.
            All results are then over N rows. None: N = B.
        shared: Runs the first pass for one row of each question of the batch alone; None: for all rows.
        visibility: What latents and the text after them see; None: all that is before them.
        pauses: (B, S) True at placeholders that are ordinary tokens and see no more than latents would; None: there
            are none.
    """

    layout: Layout
    embeds: Tensor
    position_ids: Tensor
    rows: Tensor | None = None
    visibility: Visibility | None = None
    pauses: Tensor | None = None
    shared: SharedQuestions | None = None

    @property
    def num_questions(self) -> int:
        """Rows of the first pass."""
        return len(self.embeds) if self.shared is None else len(self.shared.first)

    @property
    def num_rows(self) -> int:
        """N, the rows of the passes after it."""
        return len(self.embeds) if self.rows is None else len(self.rows)

    def repeat(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """is_token, is_latent, counts, embeds, position_ids over N rows."""
        layout = self.layout
        parts = (layout.is_token, layout.is_latent, layout.counts, self.embeds, self.position_ids)
        return parts if self.rows is None else tuple(part[self.rows] for part in parts)  # type: ignore[return-value]


@dataclass(frozen=True)
class Draws:
    """What noise does in the passes.

    Attributes:
        epsilon: (N, L, W) draws, those of a row's first latent first; (N, R, L, W) where each of R loops has its own.
            None without noise, and in a search, where `branch` brings them.
        shift: Moves value states by epsilon, which all latents of a row then share if the question's move, too; None
            for noise on the latents themselves.
    """

    epsilon: Tensor | None = None
    shift: ValueShift | None = None

    def of_round(self, index: int, number: Tensor) -> Tensor | None:
        """Draws (N, M, W) of a sweep or loop, for cells that hold latent `number` (N, M) of their row."""
        if self.epsilon is None:
            return None
        epsilon = self.epsilon if self.epsilon.dim() == 3 else self.epsilon[:, index]
        return epsilon.gather(1, number[..., None].expand(-1, -1, epsilon.size(-1)))

    def shift_at(self, epsilon: Tensor | None, is_latent: Tensor, part: slice) -> ValueShift | None:
        """The shift of a pass over some columns, with epsilon (N, Q or 1, W) at these.

        Args:
            is_latent: (N, S) of all columns.
        """
        if self.shift is None or epsilon is None:
            return None
        return self.shift.at(epsilon, self.shift.columns(is_latent)[:, part])

    def shift_at_question(self, is_latent: Tensor, rows: Tensor | None, end: int) -> ValueShift | None:
        """The shift of the first pass, over columns up to `end`.

        Args:
            is_latent: (N, S) of all columns.
            rows: (P,) that are run; None: all.
        """
        if self.shift is None or self.epsilon is None or not self.shift.moves_question:
            return None
        epsilon = self.epsilon.flatten(1, -2)[:, :1]  # a rollout has one draw
        if rows is not None:
            epsilon, is_latent = epsilon[rows], is_latent[rows]
        return self.shift_at(epsilon, is_latent, slice(end))


@dataclass(frozen=True)
class Between:
    """What happens between two passes.

    Attributes:
        stop: Called before each latent. Only for rows with one block of latents. A thought does not end before its
            first latent. It must say the same of a complete thought again; latents after its end are left out.
        branch: Says which rows go on. It is called before each latent with the states (N, d) after the one before (at
            first after the question), and once more after the last latent. It returns rows (M,), which may repeat, and
            epsilon (M, W) of their next latent or None. Only for rows with one block of equally many latents.
        watch: Called with the latents of each pass.
    """

    stop: Stop | None = None
    branch: Branch | None = None
    watch: Watch | None = None


@dataclass(frozen=True)
class Keep:
    """What is kept beyond keys, values and the states of the last pass.

    Attributes:
        spare: Free columns for tokens that follow.
        layers: Hidden states of all layers in the last pass.
        rounds: Where all latents are made at once, the states before each latent in every pass but the last.
    """

    spare: int = 0
    layers: bool = False
    rounds: bool = False


NO_DRAWS, NOTHING_BETWEEN, KEEP_NOTHING = Draws(), Between(), Keep()


@dataclass
class PassResult:
    """What the passes leave.

    Attributes:
        hidden: (N, S, d) last hidden states in packed order.
        latents: (N, L, d) the vectors fed back, a row's first latent first; zero beyond its count.
        num_latents: (N,) latents made of each row.
        is_token: (N, S) False in packed order at padding and at latents that were left out.
        decoder: Ready for the tokens that follow.
        next_position: (N,) position id of the token that would come next.
        rounds: (N, L, d) states before each latent in every pass but the last, where they were kept.
    """

    hidden: Tensor
    latents: Tensor
    num_latents: Tensor
    is_token: Tensor
    decoder: CachedDecoder
    next_position: Tensor
    rounds: tuple[Tensor, ...] = ()

    def last_state(self) -> Tensor:
        """(N, d) after each row's last token. Packed order keeps the order of tokens, but padding may follow them."""
        columns = torch.arange(self.is_token.size(1), device=self.hidden.device)
        last = (self.is_token * columns).amax(1)
        return self.hidden[torch.arange(len(last), device=last.device), last]

    def select(self, rows: Tensor) -> PassResult:
        """The same for rows (M,) of the batch, which may repeat. The decoder goes with the result."""
        self.decoder.select(rows)
        return PassResult(
            self.hidden[rows],
            self.latents[rows],
            self.num_latents[rows],
            self.is_token[rows],
            self.decoder,
            self.next_position[rows],
        )


def shared_questions(
    input_ids: Tensor, position_ids: Tensor, layout: Layout, pieces: int, seeds: Tensor | None = None
) -> SharedQuestions | None:
    """Rows whose first pieces are alike; None where all differ.

    Args:
        input_ids: (B, T) in the order of the batch.
        position_ids: (B, S) of the packed cells.
        seeds: (B,) must be alike, too; None: they need not.
    """
    end = layout.bounds[pieces - 1][1]
    is_token = layout.is_token[:, :end]
    ids = input_ids.gather(1, layout.source[:, :end]).masked_fill(~is_token, -1)
    parts = [ids, position_ids[:, :end] * is_token]
    if seeds is not None:
        parts.append(seeds.to(ids.device)[:, None])
    return SharedQuestions.among(torch.cat(parts, 1))


def run_first(decoder: CachedDecoder, packed: Packed, pieces: int, draws: Draws = NO_DRAWS) -> Tensor:
    """Runs the first pieces once for each question. Returns hidden states (N, Q, d) of all rows."""
    layout, shared = packed.layout, packed.shared
    end = layout.bounds[pieces - 1][1]
    given = (packed.embeds, layout.is_token, packed.position_ids)
    embeds, is_token, position_ids = (part[:, :end] if shared is None else part[shared.first, :end] for part in given)
    pauses = packed.pauses[:, :end] if packed.pauses is not None else None
    shift = draws.shift_at_question(layout.is_latent, None if shared is None else shared.first, end)
    is_dense = all(layout.is_dense[:pieces])
    states = decoder(embeds, is_token, position_ids, is_dense=is_dense, shift=shift, is_latent=pauses)
    rows = packed.rows if shared is None else shared.of
    if rows is None:
        return states
    decoder.select(rows)
    return states[rows]


def next_position(position_ids: Tensor, is_token: Tensor) -> Tensor:
    """(N,) position id after the last token of each row."""
    return (position_ids * is_token).amax(1) + 1
