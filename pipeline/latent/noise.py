"""Noise on latents. A rollout stores one integer seed; the noise it saw is made again from that seed anywhere.

To add a kind, subclass `Noise` and decorate it with `@register("name")`. A recipe names it as `name:scale`, or as
`name:scale@first` to have it on the first latent only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...data.errors import UserError
from .precision import precise
from .thoughts import Thought
from .value_noise import ValueShift, value_bases

FIRST = "@first"


class NoiseError(UserError):
    """A noise specification that cannot be used."""


@dataclass(frozen=True)
class Noise(ABC):
    """A kind of noise and its scale. Draws are scale-free where the kind allows it; `apply` puts them on a latent.

    Where a draw is 0 a latent stays as it is.

    Attributes:
        scale: Size of the noise, in what unit the kind says.
        first_only: The noise falls on the first latent of a row alone.
        needs: The part of a `Thought` that the kind works on, which the thought source must give; None: the latent.
    """

    kind: ClassVar[str]
    needs: ClassVar[str | None] = None
    scale: float
    first_only: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.scale:g}{FIRST if self.first_only else ''}"

    @abstractmethod
    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        """Draws epsilon (L, W) of one rollout from its seed alone, on the CPU in float32.

        The draws of seed -s mirror those of s (`normal`, `uniform`), so that two rollouts make an antithetic pair.
        """

    @abstractmethod
    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        """The latents (..., d) to feed back, from thoughts without noise and epsilon (..., W)."""

    def width(self, model: Any) -> int:
        """Numbers W drawn for each latent."""
        return model.config.get_text_config().hidden_size

    def prepare(self, model: Any) -> None:  # noqa: B027 (most kinds take nothing)
        """Called before rollouts are sampled, for kinds that take something from the weights as they are then."""

    def value_shift(self, model: Any) -> ValueShift | None:
        """What the kind does to value states of latents; None: nothing."""
        return None

    def sample_batch(self, seeds: Tensor, counts: Tensor, width: int) -> Tensor:
        """Epsilon (B, max count, W) for seeds (B,) and latents per row (B,), zero beyond a row's count.

        Row b depends on seeds[b] and counts[b] alone, never on the batch around it.
        """
        drawn = [self.sample(seed, count, width) for seed, count in zip(seeds.tolist(), counts.tolist(), strict=True)]
        epsilon = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True)
        if self.first_only:
            epsilon[:, 1:] = 0.0
        return epsilon


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal draws of a seed; those of -seed are their negatives."""
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(abs(seed)))
    return draws if seed >= 0 else -draws


def uniform(seed: int, *shape: int) -> Tensor:
    """Draws from (0, 1) of a seed; those of -seed are 1 minus them."""
    draws = torch.rand(shape, generator=torch.Generator().manual_seed(abs(seed)))
    draws = draws.clamp(1e-7, 1 - 1e-7)
    return draws if seed >= 0 else 1 - draws


NOISES: dict[str, type[Noise]] = {}


def register(kind: str) -> Callable[[type[Noise]], type[Noise]]:
    """Registers a noise class under the name that recipes use."""

    def decorate(cls: type[Noise]) -> type[Noise]:
        cls.kind = kind
        NOISES[kind] = cls
        return cls

    return decorate


def rms(vector: Tensor) -> Tensor:
    """Root mean square (..., 1), detached: the size of the noise is no way for a gradient to make a latent smaller."""
    return precise(vector.detach()).pow(2).mean(-1, keepdim=True).sqrt()


@register("gaussian")
@dataclass(frozen=True)
class GaussianNoise(Noise):
    """z' = z + scale · rms(z) · epsilon, epsilon ~ N(0, I). The scale is relative to the latent, without a unit."""

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        return normal(seed, num_latents, width)

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        latent = thought.latent
        return latent + (self.scale * rms(latent) * epsilon).to(latent.dtype)


@register("spherical")
@dataclass(frozen=True)
class SphericalNoise(GaussianNoise):
    """z' = u · rms(z) / rms(u), u = z + scale · rms(z) · epsilon: Gaussian noise that keeps the norm of the latent."""

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        latent = thought.latent
        moved = precise(super().apply(thought, epsilon))
        return (moved * (rms(latent) / moved.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt())).to(latent.dtype)


@register("learned")
@dataclass(frozen=True)
class LearnedNoise(GaussianNoise):
    """z' = z + scale · sigma(h) · epsilon, epsilon ~ N(0, I), for sources that learn sigma (`gaussian_head`)."""

    needs = "std"

    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        return thought.latent + (self.scale * _part(self, thought) * epsilon).to(thought.latent.dtype)


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
class ValueNoise(GaussianNoise):
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


def parse_noise(spec: str | None) -> Noise | None:
    """Reads `kind:scale`, for example `gaussian:0.3`, or `kind:scale@first`. None and scale 0 mean no noise.

    Raises:
        NoiseError: Unknown kind, or a scale that is no number >= 0 or that the kind does not take.
    """
    if spec is None:
        return None
    kind, separator, scale_text = spec.removesuffix(FIRST).partition(":")
    if kind not in NOISES:
        raise NoiseError(f"Unknown noise {spec!r}. Write kind:scale with a kind among {sorted(NOISES)}.")
    try:
        scale = float(scale_text)
    except ValueError:
        scale = -1.0
    if not separator or not 0 <= scale < float("inf"):
        raise NoiseError(f"Noise {spec!r} has no scale >= 0. Write for example {kind}:0.3.")
    return NOISES[kind](scale, spec.endswith(FIRST)) if scale > 0 else None
