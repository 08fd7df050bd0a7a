"""What the columns of a packed batch hold, and which of them a thought lets later columns see."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pieces:
    """Which piece of its row each column (B, S) belongs to; see `Visibility`.

    Attributes:
        is_latent: (B, S) True at latents.
        number: (B, S) latents of the row up to each column, itself and forgotten ones included.
        count: (B,) latents of each row so far.
    """

    is_latent: Tensor
    number: Tensor
    count: Tensor

    def append(self, is_latent: Tensor) -> Pieces:
        """With further columns (B, Q)."""
        number = self.count[:, None] + is_latent.cumsum(1)
        return Pieces(torch.cat([self.is_latent, is_latent], 1), torch.cat([self.number, number], 1), number[:, -1])

    def select(self, rows: Tensor) -> Pieces:
        """Those of rows (N,) of the batch, which may repeat."""
        return Pieces(self.is_latent[rows], self.number[rows], self.count[rows])

    def keep(self, index: Tensor) -> Pieces:
        """Only columns `index` (B, M) of each row."""
        return Pieces(self.is_latent.gather(1, index), self.number.gather(1, index), self.count)


@dataclass(frozen=True)
class Columns:
    """The columns (B, S) that a decoder keeps, in the order of the tokens of each row.

    Attributes:
        is_token: (B, S) True at columns that later ones may attend to.
        rank: (B, S) tokens of the row before each column, forgotten ones included.
        num_tokens: (B,) tokens of each row so far.
        pieces: None where nothing is hidden by them.
    """

    is_token: Tensor
    rank: Tensor
    num_tokens: Tensor
    pieces: Pieces | None = None

    @classmethod
    def none(cls, batch_size: int, device: torch.device, with_pieces: bool) -> Columns:
        """No columns yet."""
        flags = torch.zeros(batch_size, 0, dtype=torch.bool, device=device)
        counts = torch.zeros(batch_size, dtype=torch.long, device=device)
        return cls(flags, flags.long(), counts, Pieces(flags, flags.long(), counts) if with_pieces else None)

    @property
    def size(self) -> int:
        """S"""
        return self.is_token.size(1)

    def append(self, is_token: Tensor, is_latent: Tensor | None = None) -> Columns:
        """With further columns (B, Q).

        Args:
            is_latent: None: there is no latent among them.
        """
        pieces = self.pieces
        if pieces is not None:
            pieces = pieces.append(torch.zeros_like(is_token) if is_latent is None else is_latent & is_token)
        so_far = self.num_tokens[:, None] + is_token.cumsum(1)
        is_token = torch.cat([self.is_token, is_token], 1)
        return Columns(is_token, torch.cat([self.rank, so_far - 1], 1), so_far[:, -1], pieces)

    def hide(self, start: int, end: int) -> Columns:
        """With columns that no later one may attend to, and that do not count as tokens of their row."""
        is_token = self.is_token.clone()
        is_token[:, start:end] = False
        hidden = self.is_token[:, start:end].sum(1)
        return replace(self, is_token=is_token, num_tokens=self.num_tokens - hidden)

    def select(self, rows: Tensor) -> Columns:
        """Those of rows (N,) of the batch, which may repeat."""
        pieces = self.pieces.select(rows) if self.pieces is not None else None
        return Columns(self.is_token[rows], self.rank[rows], self.num_tokens[rows], pieces)

    def keep(self, index: Tensor, is_seen: Tensor) -> Columns:
        """Only columns `index` (B, M) of each row. Those that are not seen (B, S) any more become padding."""
        pieces = self.pieces.keep(index) if self.pieces is not None else None
        return Columns(is_seen.gather(1, index), self.rank.gather(1, index), self.num_tokens, pieces)


@dataclass(frozen=True)
class Visibility:
    """What latents, and the text after them, see of their row besides themselves.

    A row is its question, which ends before its first latent, and pieces: each latent with the text up to the next one.

    - A column in a piece sees its own piece up to itself and the `window` - 1 pieces before. So a latent sees itself
      and the `window` - 1 latents before it, and text sees the `window` latents before it; text between two latents
      stays in sight as long as the latent before it.
    - A column in a piece sees the question. Without `sees_question` only the first latent of the row does, which is
      made from the question; what the latents do not carry on is gone, start delimiter included.
    - Columns of the question, and rows without latents, see all that is before them.

    Positions stay those of the whole row. A sliding window of the model's own layers hides more, as always.

    Attributes:
        window: Pieces in sight; None: all.
    """

    window: int | None
    sees_question: bool

    @classmethod
    def of(cls, window: int | None, sees_question: bool) -> Visibility | None:
        """None where all is seen."""
        return None if window is None and sees_question else cls(window, sees_question)

    def between(self, pieces: Pieces, num_queries: int) -> Tensor:
        """(B, Q, S) whether the last Q columns may see each column, by what is said above alone."""
        keys = pieces.number[:, None]  # (B, 1, S)
        queries = pieces.number[:, -num_queries:, None]  # (B, Q, 1)
        seen = torch.ones_like(queries - keys, dtype=torch.bool)
        if self.window is not None:
            seen = (keys == 0) | (queries - keys < self.window)
        if not self.sees_question:
            before = queries - pieces.is_latent[:, -num_queries:, None].long()  # latents before the query
            seen = seen & ((keys > 0) | (before == 0))
        return seen

    def still_seen(self, pieces: Pieces) -> Tensor:
        """(B, S) columns that a later column may see, by what is said above alone."""
        made, is_question = pieces.count[:, None], pieces.number == 0
        seen = torch.ones_like(is_question)
        if self.window is not None:
            seen = is_question | (made - pieces.number < self.window)
        if not self.sees_question:
            seen = seen & (~is_question | (made == 0))
        return seen
