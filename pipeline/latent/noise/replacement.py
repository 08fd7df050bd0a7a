"""Other latents in place of the model's own: an intervention in the form of a noise. No recipe names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..thoughts.base import Thought
from .base import Noise
from .draws import LatentDraws


@dataclass(frozen=True, eq=False)
class Replacement(Noise):
    """Puts other latents in place of those that the model makes.

    Attributes:
        latents: (R, L, d). Where they are NaN, and after the last of them, the model makes its own latent from what
            comes before it.
        places: The row that each seed gets; None: the seed of a sample is its row.
    """

    kind = "replacement"
    on_input = True
    scale: float = 1.0
    latents: Tensor | None = None
    places: Mapping[int, int] | None = None

    def sample(self, draws: LatentDraws) -> Tensor:
        assert self.latents is not None
        rows = draws.seeds
        if self.places is not None:
            rows = torch.tensor([self.places[seed] for seed in rows.tolist()], device=rows.device)
        given = self.latents.to(rows.device)[rows, : draws.num_latents].float()
        given = F.pad(given, (0, 0, 0, draws.num_latents - given.size(1)), value=torch.nan)
        return given if draws.loops is None else given[:, None]

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return torch.where(epsilon.isnan(), thought.latent, epsilon.to(thought.latent.dtype))
