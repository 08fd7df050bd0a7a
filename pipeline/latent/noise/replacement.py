"""Other latents in place of the model's own: an intervention in the form of a noise. No recipe names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..thoughts.base import Thought
from .base import Noise


@dataclass(frozen=True, eq=False)
class Replacement(Noise):
    """Puts other latents in place of those that the model makes.

    Attributes:
        latents: (R, L, d). Where they are NaN, the model makes its own latent from what comes before it.
        places: The row that each seed gets; None: the seed of a sample is its row.
    """

    kind = "replacement"
    on_input = True
    scale: float = 1.0
    latents: Tensor | None = None
    places: Mapping[int, int] | None = None

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        assert self.latents is not None
        row = seed if self.places is None else self.places[seed]
        return self.latents[row, :num_latents].float().cpu()

    def sample_loops(self, seeds: Tensor, counts: Tensor, loops: int, width: int) -> Tensor:
        return self.sample_batch(seeds, counts, width)[:, None].expand(-1, loops, -1, -1)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return torch.where(epsilon.isnan(), thought.latent, epsilon.to(thought.latent.dtype))
