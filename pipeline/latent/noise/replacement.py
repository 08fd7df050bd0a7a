"""Other latents in place of the model's own: an intervention in the form of a noise. No recipe names it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..thoughts.base import Thought
from .base import Noise


@dataclass(frozen=True, eq=False)
class Replacement(Noise):
    """Puts other latents in place of those that the model makes.

    Attributes:
        latents: (R, L, d). The seed of a sample is the row that it gets. Where they are NaN, the model makes its own
            latent from what comes before it.
    """

    kind = "replacement"
    on_input = True
    scale: float = 1.0
    latents: Tensor | None = None

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        assert self.latents is not None
        return self.latents[seed, :num_latents].float().cpu()

    def sample_loops(self, seeds: Tensor, counts: Tensor, loops: int, width: int) -> Tensor:
        return self.sample_batch(seeds, counts, width)[:, None].expand(-1, loops, -1, -1)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return torch.where(epsilon.isnan(), thought.latent, epsilon.to(thought.latent.dtype))
