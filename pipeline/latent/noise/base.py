"""Noise on latents. A rollout stores one integer seed; the noise it saw is made again from that seed anywhere.

To add a kind, subclass `Noise` and decorate it with `@register_noise("name")`, as the other files of this folder do;
`__init__.py` imports them. A recipe names a kind as `name:scale`, or as `name:scale@first` to have it on the first
latent only; of looped latents, in the first loop only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....data.errors import UserError
from ..engine.precision import precise
from ..thoughts.base import THOUGHT_SOURCES, Thought
from .values import ValueShift

FIRST = "@first"


class NoiseError(UserError):
    """A noise specification that cannot be used."""


@dataclass(frozen=True)
class Noise(ABC):
    """A kind of noise and its scale. `sample` draws epsilon, and `apply` puts it on a latent.

    A draw of 0 leaves a latent as it is.

    Attributes:
        scale: Size of the noise. The unit is up to the kind.
        first_only: The noise falls on the first latent of a row only; with loops on all latents in the first loop.
        needs: The part of a `Thought` that the kind works on, such as its std. None: the latent.
        on_input: Of looped latents, it changes the input of the placeholder, to which the embedding was added already.
    """

    kind: ClassVar[str]
    needs: ClassVar[str | None] = None
    on_input: ClassVar[bool] = False
    scale: float
    first_only: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.scale:g}{FIRST if self.first_only else ''}"

    @abstractmethod
    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        """Draws epsilon (L, W) of one rollout from its seed alone, on the CPU in float32.

        The draws of seed -s mirror those of s (see `normal`, `uniform`), which makes antithetic pairs.
        """

    @abstractmethod
    def apply(self, thought: Thought, epsilon: Tensor) -> Tensor:
        """The latents (..., d) to feed back, from thoughts before noise and epsilon (..., W)."""

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` knows the density of noisy latents."""
        return type(self).log_prob is not Noise.log_prob

    def log_prob(self, thought: Thought, latent: Tensor, size: Tensor | None = None) -> Tensor:
        """Log-density (...) in nats of noisy latents (..., d) given thoughts before noise, summed over d.

        Args:
            size: (..., 1) RMS of the latents before noise when they were drawn; None: their RMS now.
        """
        raise NoiseError(f"Noise {self} has no density that is known here. Use gaussian or learned.")

    def width(self, model: Any) -> int:
        """Numbers W drawn for each latent."""
        return model.config.get_text_config().hidden_size

    def prepare(self, model: Any) -> None:  # noqa: B027 (most kinds take nothing)
        """Called before rollouts are drawn. Kinds that depend on the weights read them here."""

    def value_shift(self, model: Any) -> ValueShift | None:
        """The shift that the kind gives to the values of latents; None: it leaves them alone."""
        return None

    def sample_batch(self, seeds: Tensor, counts: Tensor, width: int) -> Tensor:
        """Epsilon (B, max count, W) for seeds (B,) and latents per row (B,), zero beyond a row's count.

        Row b depends on seeds[b] and counts[b] only, not on the rest of the batch.
        """
        drawn = [self.sample(seed, count, width) for seed, count in zip(seeds.tolist(), counts.tolist(), strict=True)]
        epsilon = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True)
        if self.first_only:
            epsilon[:, 1:] = 0.0
        return epsilon

    def sample_loops(self, seeds: Tensor, counts: Tensor, loops: int, width: int) -> Tensor:
        """Epsilon (B, R, max count, W) of looped latents: a draw for each loop and latent, as in `sample_batch`."""
        drawn = [
            self.sample(seed, loops * count, width).view(loops, count, width).transpose(0, 1)
            for seed, count in zip(seeds.tolist(), counts.tolist(), strict=True)
        ]
        epsilon = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True).transpose(1, 2)
        if self.first_only:
            epsilon[:, 1:] = 0.0
        return epsilon


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal draws of a seed; those of -seed are their negatives."""
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(abs(seed)), dtype=torch.float32)
    return draws if seed >= 0 else -draws


def uniform(seed: int, *shape: int) -> Tensor:
    """Draws from (0, 1) of a seed; those of -seed are 1 minus them."""
    draws = torch.rand(shape, generator=torch.Generator().manual_seed(abs(seed)), dtype=torch.float32)
    draws = draws.clamp(1e-7, 1 - 1e-7)
    return draws if seed >= 0 else 1 - draws


NOISES: dict[str, type[Noise]] = {}


def register_noise(kind: str) -> Callable[[type[Noise]], type[Noise]]:
    """Registers a noise class under the name that recipes use."""

    def decorate(cls: type[Noise]) -> type[Noise]:
        cls.kind = kind
        NOISES[kind] = cls
        return cls

    return decorate


def check_fits(key: str, noise: Noise | None, thought_source: str) -> None:
    """Makes sure that a thought source gives the part that a kind of noise works on.

    Args:
        key: Where the noise comes from, for the message.

    Raises:
        NoiseError: It does not.
    """
    if noise is None:
        return
    source = THOUGHT_SOURCES[thought_source]
    if not source.is_recurrent:
        raise NoiseError(f"{key}={noise} has no latents to fall on with thought source {thought_source}.")
    if noise.needs and noise.needs not in source.gives:
        fit = sorted(name for name, other in THOUGHT_SOURCES.items() if noise.needs in other.gives)
        raise NoiseError(
            f"{key}={noise} needs a thought source that gives a {noise.needs} ({', '.join(fit)}), but it is "
            f"{thought_source}. Change one of the two."
        )


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


def rms(vector: Tensor) -> Tensor:
    """Root mean square (..., 1), detached, so that no gradient can shrink the noise by shrinking a latent."""
    return precise(vector.detach()).pow(2).mean(-1, keepdim=True).sqrt()


def normal_log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(value; mean, std²) in nats, summed over the last dimension: -Σ (x - μ)² / 2σ² + log σ + log(2π) / 2."""
    deviation = (precise(value) - precise(mean)) / precise(std)
    return -(0.5 * deviation.pow(2) + precise(std).log() + 0.5 * math.log(2 * math.pi)).sum(-1)


class NormalNoise(Noise):
    """Noise whose draws are epsilon ~ N(0, I)."""

    def sample(self, seed: int, num_latents: int, width: int) -> Tensor:
        return normal(seed, num_latents, width)


def part_of(noise: Noise, thought: Thought) -> Any:
    """The part of a thought that a kind of noise works on (see `Noise.needs`).

    Raises:
        NoiseError: The thought source gives none.
    """
    part = getattr(thought, noise.needs or "latent")
    if part is None:
        raise NoiseError(f"Noise {noise} needs a thought source that gives a {noise.needs}. Choose another of the two.")
    return part
