"""How many columns of keys and values the rows of a batch hold while answers are drawn after them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config import LatentConfig, key_value_heads
from ..thoughts import THOUGHT_SOURCES
from .columns import Visibility
from .layout import plan_parallel, plan_passes
from .parallel import Refinement, pass_widths
from .precision import weight_dtype
from .room import Room


@dataclass(frozen=True)
class Footprint:
    """The pieces of P prompts, from which the columns follow that a batch of some of them holds.

    Every row of a batch has buffers for as many columns as the batch needs: those of all its passes, the padding that
    ragged prompts cost, and room for the answers. A question that rows share is held once until the first latent, and
    from then on by each row; so the rows count, not the questions.

    Attributes:
        pieces: P lists, the tokens of each piece (see `layout`).
        latents: P numbers of latents that are fed back.
        rounds: Jacobi sweeps or loops; None: latents are made one after the other.
        visibility: What latents see; None: all.
        spare: Columns for the answer.
    """

    pieces: list[list[int]]
    latents: list[int]
    rounds: int | None
    visibility: Visibility | None
    spare: int

    @classmethod
    def of(cls, config: LatentConfig, prompts: Sequence[Sequence[int]], spare: int) -> Footprint:
        """That of prompts given as token ids with their placeholders."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        is_latent = torch.zeros_like(mask)
        if THOUGHT_SOURCES[config.thought_source].is_recurrent:
            is_latent[mask] = torch.tensor([token for prompt in prompts for token in prompt]) == config.token_ids[1]
        most = int(is_latent.sum(1).max())
        refinement = Refinement.of(config, most)
        layout = plan_passes(is_latent, mask, most) if refinement is None else plan_parallel(is_latent, mask)
        return cls(
            layout.sizes.tolist(),
            layout.counts.tolist(),
            None if refinement is None else refinement.rounds,
            Visibility.of(config.window, config.sees_question),
            spare,
        )

    def columns(self, prompts: Iterable[int] | None = None) -> int:
        """Columns that each row of a batch of these prompts holds; None: of all. At most a few more than it will."""
        chosen = list(range(len(self.pieces)) if prompts is None else prompts)
        pieces = [max(1, *sizes) for sizes in zip(*(self.pieces[at] for at in chosen), strict=True)]
        widths = pieces if self.rounds is None else pass_widths(pieces, self.rounds)
        if self.visibility is None:
            return sum(widths) + self.spare
        return Room(widths, self.visibility, min(self.latents[at] for at in chosen), self.spare).capacity(0)


def column_bytes(model: Any) -> int:
    """Bytes of the keys and values that a reasoner holds of one column of a row."""
    config = model.config.get_text_config()
    heads, size = key_value_heads(config)
    # Under autocast rotary embeddings leave the keys in the dtype of the weights; so the values may take less.
    return config.num_hidden_layers * heads * size * 2 * weight_dtype(model.latent_config.compute_dtype).itemsize
