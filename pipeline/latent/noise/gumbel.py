"""Gumbel noise on the shares of a mixture of token embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..thoughts.base import Thought
from .base import Noise, part_of, register_noise
from .draws import LatentDraws


@register_noise("gumbel")
@dataclass(frozen=True)
class GumbelNoise(Noise):
    """z' = Σ p_v E(v), p = softmax((logits + scale · g) / temperature), g ~ Gumbel(0, 1), over the tokens of a
    mixture (`soft_vocabulary`; SofT-GRPO, arXiv 2511.06411). At scale 1 and a low temperature this samples a token.
    """

    needs = "mixture"

    def width(self, model: Any) -> int:
        return model.thought_source.top_k

    def sample(self, draws: LatentDraws) -> Tensor:
        return -(-draws.uniform().log()).log()

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        mixture = part_of(self, thought)
        noisy = mixture.logits + self.scale * epsilon[..., : mixture.logits.size(-1)]
        return mixture._replace(logits=noisy).mean()


@register_noise("gumbel_onesided")
@dataclass(frozen=True)
class OneSidedGumbelNoise(GumbelNoise):
    """As `gumbel`, with g = clamp(Gumbel(0, 1), −1.5, 3) + 1.5 >= 0 (Latent-GRPO, arXiv 2604.27998). It raises
    tokens and lowers none, so that no likely token is lost."""

    def sample(self, draws: LatentDraws) -> Tensor:
        return super().sample(draws).clamp(-1.5, 3.0) + 1.5
