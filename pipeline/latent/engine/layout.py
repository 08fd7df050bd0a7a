"""The packed order of a ragged batch: which tokens of which row run in which pass.

A row with k latents has k + 1 pieces: the tokens before its first latent, then each latent with the tokens that follow
it. One row is computed exactly by running its pieces one after another through a KV cache. Rows of a batch may have
different numbers of latents, so their pieces are aligned at both ends: the first piece of every row runs in the first
pass, and the last piece of every row in the last pass. The long texts after the latents then share one pass. Inside a
pass rows are padded on the left, so that the hidden state that makes the next latent is always in the last column.

Where all latents are made at once, a row has three pieces: before its first latent, from its first to its last latent,
and after.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The packed order of a batch (B, T) -> (B, S), S = sum of the piece widths >= T.

    Attributes:
        source: (B, S) column of the original batch that a packed cell holds; 0 where the cell is padding.
        is_token: (B, S) False where the cell is padding.
        is_latent: (B, S) True where the cell holds a latent placeholder.
        packed_column: (B, T) packed column of each original cell; 0 where the original cell is padding.
        bounds: First and one-past-last packed column of each piece.
        has_tokens: For each piece, whether every row has a token in it.
        is_dense: For each piece, whether no row has padding in it.
        counts: (B,) latents of each row.
        sizes: (B, pieces) tokens of each row in each piece.
    """

    source: Tensor
    is_token: Tensor
    is_latent: Tensor
    packed_column: Tensor
    bounds: list[tuple[int, int]]
    has_tokens: list[bool]
    is_dense: list[bool]
    counts: Tensor
    sizes: Tensor


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position ids (B, T) that number the tokens of each row from 0; padding is not counted."""
    return (attention_mask.long().cumsum(1) - 1).clamp_min(0)


def plan_passes(is_latent: Tensor, attention_mask: Tensor, num_latents: int) -> Layout:
    """Plans one pass a latent.

    Args:
        is_latent: (B, T) True at latent placeholders.
        attention_mask: (B, T) 1 at tokens, 0 at padding.
        num_latents: The most latents in any row, or more: under ZeRO-3 all ranks must run as many passes as the rank
            with the longest row. Passes nobody here needs then hold one padded column.
    """
    mask, is_latent, counts, seen = _count(is_latent, attention_mask)
    piece = torch.where(seen > 0, seen + (num_latents - counts)[:, None], 0)
    if num_latents:
        piece = torch.where(_beyond_questions(mask, seen, counts), num_latents, piece)
    return _pack(piece, num_latents + 1, mask, is_latent, counts)


def plan_parallel(is_latent: Tensor, attention_mask: Tensor) -> Layout:
    """Plans three pieces: before the first latent of a row, up to its last latent, and after."""
    mask, is_latent, counts, seen = _count(is_latent, attention_mask)
    is_after = (seen == counts[:, None]) & ~is_latent
    piece = torch.where(seen == 0, 0, torch.where(is_after, 2, 1))
    return _pack(torch.where(_beyond_questions(mask, seen, counts), 2, piece), 3, mask, is_latent, counts)


def plan_split(is_rest: Tensor, is_latent: Tensor, attention_mask: Tensor) -> Layout:
    """Plans two pieces for rows in which nothing is fed back: what comes before `is_rest` (B, T), and the rest.

    The first token of a row is in no rest, and from the first cell of the rest on all are.
    """
    mask, is_latent, counts, _ = _count(is_latent, attention_mask)
    return _pack(is_rest.long(), 2, mask, is_latent, counts)


def _count(is_latent: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts the latents of a batch.

    Returns:
        mask: (B, T) True at tokens.
        is_latent: (B, T) True at placeholders that are not padding.
        counts: (B,) latents of each row.
        seen: (B, T) latents of the row up to each cell, the cell included.
    """
    mask = attention_mask.bool()
    is_latent = is_latent & mask
    return mask, is_latent, is_latent.sum(1), is_latent.cumsum(1)


def _beyond_questions(mask: Tensor, seen: Tensor, counts: Tensor) -> Tensor:
    """Cells (B, T) of rows without latents that run in the last pass.

    A row without latents may be cut anywhere. It is cut at the length of the longest question of the other rows, but
    never before its first token, so that every row has a token in the first piece.
    """
    before = (mask & (seen == 0) & (counts > 0)[:, None]).sum(1).max().clamp_min(1)
    return (counts == 0)[:, None] & (mask.cumsum(1) - 1 >= before)


def _pack(piece: Tensor, num_pieces: int, mask: Tensor, is_latent: Tensor, counts: Tensor) -> Layout:
    """Packs cells in the order of their pieces. Inside a piece rows are padded on the left.

    Args:
        piece: (B, T) index of the piece of each cell, which never falls from one token of a row to the next.
    """
    # (B, pieces) tokens of each row in each piece
    sizes = piece.new_zeros(len(piece), num_pieces).scatter_add_(1, piece, mask.long())
    widths = sizes.max(0).values.clamp_min(1)
    ends = widths.cumsum(0)
    before = sizes.cumsum(1) - sizes  # (B, pieces) tokens of the row in the pieces before
    rank_in_piece = mask.cumsum(1) - 1 - before.gather(1, piece)  # (B, T)
    packed_column = (ends - sizes).gather(1, piece) + rank_in_piece
    packed_column = torch.where(mask, packed_column, 0)
    # One transfer to the host for all numbers that steer the passes.
    end_list, has_tokens, is_dense = torch.stack([ends, (sizes > 0).all(0), (sizes == widths).all(0)]).tolist()
    batch, total = mask.size(0), end_list[-1]
    # Padding is written to one extra column, which is cut off, so that it cannot overwrite a token.
    target = torch.where(mask, packed_column, total)
    columns = torch.arange(mask.size(1), device=mask.device).expand(batch, -1)
    source = columns.new_zeros(batch, total + 1).scatter_(1, target, columns)[:, :total]
    is_token = mask.new_zeros(batch, total + 1).scatter_(1, target, mask)[:, :total]
    return Layout(
        source=source,
        is_token=is_token,
        is_latent=is_latent.gather(1, source) & is_token,
        packed_column=packed_column,
        bounds=list(zip([0, *end_list[:-1]], end_list, strict=True)),
        has_tokens=[bool(value) for value in has_tokens],
        is_dense=[bool(value) for value in is_dense],
        counts=counts,
        sizes=sizes,
    )
