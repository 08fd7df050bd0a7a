"""The kinds of noise, each with its formula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..engine.precision import precise
from ..thoughts.base import Thought
from .base import Noise, NoiseError, normal, register, uniform
from .values import ValueShift, value_bases


def rms(vector: Tensor) -> Tensor:
    """Root mean square (..., 1), detached: the size of the noise is no way for a gradient to make a latent smaller."""
    return precise(vector.detach()).pow(2).mean(-1, keepdim=True).sqrt()


def normal_log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(value; mean, std²) in nats, summed over the last dimension: -Σ (x - μ)² / 2σ² + log σ + log(2π) / 2."""
    deviation = (precise(value) - precise(mean)) / precise(std)
    return -(0.5 * deviation.pow(2) + precise(std).log() + 0.5 * math.log(2 * math.pi)).sum(-1)


class NormalNoise(Noise):
    """Noise whose draws are epsilon ~ N(0, I)."""

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        return normal(seed, num_latents, width)


@register("gaussian")
@dataclass(frozen=True)
class GaussianNoise(NormalNoise):
    """z' = z + scale · rms(z) · epsilon, epsilon ~ N(0, I). The scale is relative to the latent, without a unit."""

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        latent = thought.latent
        return latent + (self.scale * rms(latent) * epsilon).to(latent.dtype)

    def log_prob(self, thought: Thought, latent: Tensor, size: Tensor | None = None) -> Tensor:
        size = rms(thought.latent) if size is None else size
        return normal_log_prob(latent, thought.latent, self.scale * size)


@register("spherical")
@dataclass(frozen=True)
class SphericalNoise(NormalNoise):
    """z' = u · rms(z) / rms(u), u = z + scale · rms(z) · epsilon: Gaussian noise that keeps the norm of the latent."""

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        latent = thought.latent
        size = rms(latent)
        moved = precise(latent) + self.scale * size * epsilon
        return (moved * (size / moved.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt())).to(latent.dtype)


@register("learned")
@dataclass(frozen=True)
class LearnedNoise(NormalNoise):
    """z' = z + scale · sigma(h) · epsilon, epsilon ~ N(0, I), for sources that learn sigma (`gaussian_head`)."""

    needs = "std"

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent + (self.scale * _part(self, thought) * epsilon).to(thought.latent.dtype)

    def log_prob(self, thought: Thought, latent: Tensor, size: Tensor | None = None) -> Tensor:
        return normal_log_prob(latent, thought.latent, self.scale * _part(self, thought))


@register("dropout")
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


@register("gumbel")
@dataclass(frozen=True)
class GumbelNoise(Noise):
    """z' = Σ p_v E(v), p = softmax((logits + scale · g) / temperature), g ~ Gumbel(0, 1), over the tokens that a
    mixture is made of (`soft_vocabulary`; SofT-GRPO, arXiv 2511.06411). At scale 1 and a low temperature: a sample.
    """

    needs = "mixture"

    def width(self, model: Any) -> int:
        return model.thought_source.top_k

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        return -(-uniform(seed, num_latents, width).log()).log()

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        mixture = _part(self, thought)
        noisy = mixture.logits + self.scale * epsilon[..., : mixture.logits.size(-1)]
        return mixture._replace(logits=noisy).mean()


@register("gumbel_onesided")
@dataclass(frozen=True)
class OneSidedGumbelNoise(GumbelNoise):
    """As `gumbel`, with g = clamp(Gumbel(0, 1), −1.5, 3) + 1.5 >= 0 (Latent-GRPO, arXiv 2604.27998): it lifts tokens
    and pushes none down, so that no likely token is lost."""

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        return super().sample(seed, num_latents, width).clamp(-1.5, 3.0) + 1.5


@register("svp")
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

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        return normal(seed, width).repeat(num_latents, 1)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent


def _part(noise: Noise, thought: Thought) -> Any:
    """The part of a thought that a kind of noise works on.

    Raises:
        NoiseError: The thought source gives none.
    """
    part = getattr(thought, noise.needs or "latent")
    if part is None:
        raise NoiseError(f"Noise {noise} needs a thought source that gives a {noise.needs}. Choose another of the two.")
    return part
