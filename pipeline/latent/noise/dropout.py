"""Dropped coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..thoughts.base import Thought
from .base import Noise, NoiseError, register_noise
from .draws import LatentDraws


@register_noise("dropout")
@dataclass(frozen=True)
class DropoutNoise(Noise):
    """z' = z · m / (1 − scale). The mask m drops a share `scale` of the coordinates.

    All latents of a rollout share one mask (Dropout-GRPO, arXiv 2606.10184, which also drops inside the layers).
    """

    def __post_init__(self) -> None:
        """
        Raises:
            NoiseError: A share that leaves nothing.
        """
        if self.scale >= 1:
            raise NoiseError(f"Noise {self} would drop every coordinate. Give a share below 1, such as dropout:0.1.")

    def sample(self, draws: LatentDraws) -> Tensor:
        kept = (draws.uniform(per_rollout=True) >= self.scale).float() / (1 - self.scale)
        return kept - 1

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent * (1 + epsilon).to(thought.latent.dtype)
