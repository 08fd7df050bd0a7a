"""Noise whose size the thought source learns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..thoughts.base import Thought
from .base import NormalNoise, normal_log_prob, part_of, register_noise


@register_noise("learned")
@dataclass(frozen=True)
class LearnedNoise(NormalNoise):
    """z' = z + scale · sigma(h) · epsilon, epsilon ~ N(0, I), for sources that learn sigma (`gaussian_head`)."""

    needs = "std"

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent + (self.scale * part_of(self, thought) * epsilon).to(thought.latent.dtype)

    def log_prob(self, thought: Thought, latent: Tensor, size: Tensor | None = None) -> Tensor:
        return normal_log_prob(latent, thought.latent, self.scale * part_of(self, thought))
