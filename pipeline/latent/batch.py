"""What a forward over latents is given: the batch, the noise on its latents, or latents to take as they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .config import ModelError
from .engine.layout import positions_of
from .noise import Noise


@dataclass(frozen=True)
class Batch:
    """Rows of token ids with latent placeholders in place.

    Attributes:
        input_ids: (B, T)
        attention_mask: (B, T) 1 at tokens and placeholders, 0 at padding.
        position_ids: (B, T)
        is_latent: (B, T) True at placeholders.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    is_latent: Tensor

    @classmethod
    def of(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        latent_id: int,
        position_ids: Tensor | None = None,
    ) -> Batch:
        """Fills in what may be left out: no padding, and tokens numbered from 0 in each row.

        Args:
            latent_id: Token id of the placeholder.
        """
        mask = input_ids.new_ones(input_ids.shape) if attention_mask is None else attention_mask
        positions = positions_of(mask) if position_ids is None else position_ids
        is_latent = (input_ids == latent_id) & mask.bool()
        return cls(input_ids, mask, positions.expand(len(input_ids), -1), is_latent)

    def check_rows(self, context_window: int | None) -> None:
        """Makes sure that latents can be made in every row.

        Args:
            context_window: The most tokens and latents of a row; None: any number.

        Raises:
            ModelError: A row that is all padding, begins with a placeholder, or is too long.
        """
        mask = self.attention_mask.bool()
        empty = ~mask.any(1)
        starts_latent = self.is_latent.gather(1, mask.int().argmax(1, keepdim=True)).squeeze(1)
        if bool((empty | starts_latent).any()):
            row = int((empty | starts_latent).int().argmax())
            what = "is all padding" if empty[row] else "begins with a <|latent|> placeholder"
            raise ModelError(f"Row {row} of the batch {what}. A latent needs a token before it to be made from.")
        longest = int(mask.sum(1).max())
        if context_window is not None and longest > context_window:
            raise ModelError(
                f"A row has {longest} tokens and latents, the model's context window is {context_window}. "
                "Shorten the questions or lower the number of latents."
            )

    def select(self, rows: Tensor) -> Batch:
        """The batch of rows (N,), which may repeat."""
        parts = (self.input_ids, self.attention_mask, self.position_ids, self.is_latent)
        return Batch(*(part[rows] for part in parts))

    def after_question(self, labels: Tensor) -> Tensor:
        """(B, T) True from the first latent or label of each row on."""
        return (self.is_latent | (labels != -100)).cumsum(1) > 0


@dataclass(frozen=True)
class Draw:
    """Noise on the latents of a batch, and the seeds it is drawn from.

    Attributes:
        seeds: (N,) one for each row of the result; None where a search makes the draws itself.
    """

    noise: Noise
    seeds: Tensor | None = None

    @classmethod
    def of(cls, noise: Noise | None, seeds: Tensor | None) -> Draw | None:
        """The draw of a batch; None without noise.

        Raises:
            ModelError: Noise without seeds.
        """
        if noise is not None and seeds is None:
            raise ModelError("noise was given without noise_seeds. Give one integer seed per row.")
        return None if noise is None else cls(noise, seeds)


@dataclass(frozen=True)
class Given:
    """Noisy latents of earlier rollouts, taken as they are.

    Attributes:
        latents: (B, L, d)
        noise: The noise that they were drawn under.
        rms: (B, L) root mean square of each latent before noise, as it was drawn; None: as it is now.
    """

    latents: Tensor
    noise: Noise
    rms: Tensor | None = None
