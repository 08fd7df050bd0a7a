"""Dropped coordinates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..thoughts.base import Thought
from .base import Noise, NoiseError, register_noise, uniform


@register_noise("dropout")
@dataclass(frozen=True)
class DropoutNoise(Noise):
    """z' = z · m / (1 − scale): a share `scale` of the coordinates is dropped, the same ones from all latents of a
    rollout (one mask a rollout, Dropout-GRPO, arXiv 2606.10184, which drops inside the layers too).
    """

    def __post_init__(self) -> None:
        """
        Raises:
            NoiseError: A share that leaves nothing.
        """
        if self.scale >= 1:
            raise NoiseError(f"Noise {self} would drop every coordinate. Give a share below 1, such as dropout:0.1.")

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        kept = (uniform(seed, width) >= self.scale).float() / (1 - self.scale)
        return (kept - 1).repeat(num_latents, 1)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent * (1 + epsilon).to(thought.latent.dtype)
