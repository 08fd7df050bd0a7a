"""Where every token of a ragged batch goes, so that one row's latents never wait for another row's tokens.

A row with k latents is k + 1 pieces: the tokens before its first latent, then each latent with the tokens that follow
it. Piece by piece through a KV cache is exact for one row. For a batch of rows with different counts, the pieces are
aligned at both ends: piece 0 runs in pass 0 and the last piece of every row in the last pass, so that the long tails
share one pass. Inside a pass, rows are padded on the left, so that the hidden state a latent is made from is always
in the last column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The packed order of a batch (B, T) -> (B, S), S = sum of the pass widths >= T.

    Attributes:
        source: (B, S) column of the original batch that a packed cell holds; 0 where the cell is padding.
        is_token: (B, S) False where the cell is padding.
        is_latent: (B, S) True where the cell holds a latent placeholder.
        packed_column: (B, T) packed column of each original cell; 0 where the original cell is padding.
        bounds: First and one-past-last packed column of each pass.
        has_tokens: For each pass, whether every row has a token in it.
        counts: (B,) latents of each row.
    """

    source: Tensor
    is_token: Tensor
    is_latent: Tensor
    packed_column: Tensor
    bounds: list[tuple[int, int]]
    has_tokens: list[bool]
    counts: Tensor

    @property
    def num_passes(self) -> int:
        return len(self.bounds)


def plan_layout(is_latent: Tensor, attention_mask: Tensor, num_latents: int) -> Layout:
    """Plans the passes of a batch.

    Args:
        is_latent: (B, T) True at latent placeholders.
        attention_mask: (B, T) 1 at tokens, 0 at padding.
        num_latents: The most latents in any row, or more: under ZeRO-3 all ranks must run as many passes as the rank
            with the longest row. Passes nobody here needs then hold one padded column.
    """
    mask = attention_mask.bool()
    is_latent = is_latent & mask
    counts = is_latent.sum(1)  # (B,)
    seen = is_latent.cumsum(1)  # (B, T) latents at or before each cell
    pass_index = torch.where(seen > 0, seen + (num_latents - counts)[:, None], 0)
    if num_latents:
        # A row without latents may be cut anywhere; cut it where the longest question ends.
        before = (mask & (seen == 0) & (counts > 0)[:, None]).sum(1).max()
        rank = mask.cumsum(1) - 1
        pass_index = torch.where((counts == 0)[:, None] & (rank >= before), num_latents, pass_index)
    one_hot = torch.nn.functional.one_hot(pass_index, num_latents + 1) * mask[..., None]  # (B, T, passes)
    sizes = one_hot.sum(1)  # (B, passes) tokens of each row in each pass
    widths = sizes.max(0).values.clamp_min(1)
    ends = widths.cumsum(0)
    rank_in_pass = (one_hot.cumsum(1) * one_hot).sum(-1) - 1  # (B, T)
    packed_column = (ends - sizes).gather(1, pass_index) + rank_in_pass  # left padding inside a pass
    packed_column = torch.where(mask, packed_column, 0)
    end_list = ends.tolist()
    batch, total = mask.size(0), end_list[-1]
    # Padding is written to a column of its own that is cut off again, so that it cannot overwrite a token.
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
        has_tokens=(sizes > 0).all(0).tolist(),
        counts=counts,
    )
