"""Gaussian noise, relative to the size of the latent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..thoughts.base import Thought
from .base import NormalNoise, normal_log_prob, register_noise, rms


@register_noise("gaussian")
@dataclass(frozen=True)
class GaussianNoise(NormalNoise):
    """z' = z + scale · rms(z) · epsilon, epsilon ~ N(0, I). The scale is relative to the latent, without a unit."""

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        latent = thought.latent
        return latent + (self.scale * rms(latent) * epsilon).to(latent.dtype)

    def log_prob(self, thought: Thought, latent: Tensor, size: Tensor | None = None) -> Tensor:
        size = rms(thought.latent) if size is None else size
        return normal_log_prob(latent, thought.latent, self.scale * size)
