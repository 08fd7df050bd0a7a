"""Noise on the singular values of the value matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..thoughts.base import Thought
from .base import NormalNoise, register_noise
from .draws import LatentDraws
from .values import ValueShift, value_bases


@register_noise("svp")
@dataclass(frozen=True)
class ValueNoise(NormalNoise):
    """v' = v + scale · R diag(epsilon) Rᵀ (v − b), epsilon ~ N(0, I), the same for all latents of a rollout.

    The values v = W x + b that later tokens read from a latent become those of a W whose singular values are
    s (1 + scale · epsilon). R (v, v) are the singular vectors of W on the side of the values, as of the latest
    rollouts; each layer has its own, and draws of its own.

    Perturbed value matrices after SVP-V-GRPO, there for every token; here for latents, so that questions share their
    prefill. The latents themselves are moved by what they read from earlier latents.
    """

    def width(self, model: Any) -> int:
        return value_bases(model).width

    def prepare(self, model: Any) -> None:
        value_bases(model, renew=True)

    def value_shift(self, model: Any) -> ValueShift:
        return ValueShift(value_bases(model), self.scale)

    def sample(self, draws: LatentDraws) -> Tensor:
        return draws.normal(per_rollout=True)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent
