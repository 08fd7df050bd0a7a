"""Noise on the singular values of the value matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..thoughts.base import Thought
from .base import NoiseError, NormalNoise, register_noise
from .draws import LatentDraws
from .values import ValueShift, value_bases, value_biases


@register_noise("svp")
@dataclass(frozen=True)
class ValueNoise(NormalNoise):
    """v' = v + scale · R diag(epsilon) Rᵀ (v − b), epsilon ~ N(0, I), the same for all latents of a rollout.

    The values v = W x + b that later tokens read from a latent become those of a W whose singular values are
    s (1 + scale · epsilon). R (v, v) are the singular vectors of W on the side of the values, as of the latest
    rollouts; each layer has its own, and draws of its own.

    A variant of ours of SVP-V-GRPO, which is `svp_weights`: there the values of the question are perturbed, too. Here
    rollouts of a question share their prefill. Latents are moved by what they read from earlier latents.
    """

    def width(self, model: Any) -> int:
        return value_bases(model).width

    def prepare(self, model: Any) -> None:
        value_bases(model, renew=True)

    def value_shift(self, model: Any) -> ValueShift:
        return ValueShift(value_bases(model), self.scale, value_biases(model))

    def sample(self, draws: LatentDraws) -> Tensor:
        return draws.normal(per_rollout=True)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent


@register_noise("svp_weights")
@dataclass(frozen=True)
class ValueWeightNoise(ValueNoise):
    """W' = U diag(s (1 + scale · epsilon)) Rᵀ in place of each value matrix W = U diag(s) Rᵀ until the answer begins.

    Question and latents are run with W', the same for a whole rollout; what follows the last latent is run with W. So
    the first latent differs between rollouts already, and a question is run for each of them.

    SVP-V-GRPO (github.com/jihwan1205/Singular-Value-Perturbation, scale 0.6), which trains value matrices alone:
    `rl.trainable: value_matrices`. In a replay W' = W R diag(1 + scale · epsilon) Rᵀ with R as of the rollouts, through
    which gradients reach W.
    """

    moves_question: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.first_only:
            raise NoiseError(
                f"Noise {self} changes weights for a whole thought, and not a latent. Remove @first, or take svp."
            )

    def value_shift(self, model: Any) -> ValueShift:
        return ValueShift(value_bases(model), self.scale, value_biases(model), moves_question=True)
