"""Gaussian noise that keeps the norm of the latent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..engine.precision import precise
from ..thoughts.base import Thought
from .base import NormalNoise, register_noise, rms


@register_noise("spherical")
@dataclass(frozen=True)
class SphericalNoise(NormalNoise):
    """z' = u · rms(z) / rms(u), u = z + scale · rms(z) · epsilon: Gaussian noise that keeps the norm of the latent."""

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        latent = thought.latent
        size = rms(latent)
        moved = precise(latent) + self.scale * size * epsilon
        return (moved * (size / moved.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt())).to(latent.dtype)
