"""Noise on latents. A rollout stores one integer seed; the noise it saw is made again from that seed anywhere.

To add a kind, subclass `Noise` and decorate it with `@register_noise("name")`, as the other files of this folder do;
`__init__.py` imports them. A recipe names a kind as `name:scale`, or as `name:scale@first` to have it on the first
latent only; of looped latents, in the first loop only.
"""

from __future__ import annotations

import inspect
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
from .draws import LatentDraws
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
        moves_question: What is read of the question depends on the seed, so that rollouts of one question cannot share
            it.
        on_input: Of looped latents, it changes the input of the placeholder, to which the embedding was added already.
    """

    kind: ClassVar[str]
    needs: ClassVar[str | None] = None
    moves_question: ClassVar[bool] = False
    on_input: ClassVar[bool] = False
    scale: float
    first_only: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.scale:g}{FIRST if self.first_only else ''}"

    @abstractmethod
    def sample(self, draws: LatentDraws) -> Tensor:
        """Epsilon of all latents of a batch, made of random numbers that `draws` gives; in float32, on their device.

        Returns:
            `draws.shape`, which is (B, L, W), and (B, R, L, W) in R loops; or a shape that broadcasts to it.
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

    def moves_first_latent(self, model: Any) -> bool:
        """Whether the first latents of two rollouts differ. A shift alone shows in what later tokens read of them."""
        return self.moves_question or self.value_shift(model) is None

    def sample_batch(self, seeds: Tensor, num_latents: int, width: int, loops: int | None = None) -> Tensor:
        """Epsilon (B, L, W) of rollouts with seeds (B,), on the device of these; (B, R, L, W) in R loops.

        Raises:
            NoiseError: `sample` gave another shape.
        """
        draws = LatentDraws(seeds, num_latents, width, loops)
        epsilon = self.sample(draws)
        try:
            epsilon = epsilon.expand(draws.shape)
        except RuntimeError as error:
            raise NoiseError(
                f"Noise {self}: {type(self).__name__}.sample gave the shape {tuple(epsilon.shape)}. Give "
                f"{draws.shape}, as `draws.shape` says, or one that broadcasts to it."
            ) from error
        if self.first_only:  # the first latent, or the first loop
            epsilon = torch.cat([epsilon[:, :1], torch.zeros_like(epsilon[:, 1:])], 1)
        return epsilon


NOISES: dict[str, type[Noise]] = {}


def register_noise(kind: str) -> Callable[[type[Noise]], type[Noise]]:
    """Registers a noise class under the name that recipes use.

    Raises:
        NoiseError: Its `sample` does not take `draws` alone.
    """

    def decorate(cls: type[Noise]) -> type[Noise]:
        signature = inspect.signature(cls.sample)
        try:
            signature.bind(None, None)  # self and the draws
        except TypeError as error:
            raise NoiseError(
                f"Noise {kind!r}: {cls.__name__}.sample takes {signature}, but is called once for a whole batch. Write "
                "sample(self, draws), and make epsilon of draws.normal() or draws.uniform()."
            ) from error
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

    def sample(self, draws: LatentDraws) -> Tensor:
        return draws.normal()


def part_of(noise: Noise, thought: Thought) -> Any:
    """The part of a thought that a kind of noise works on (see `Noise.needs`).

    Raises:
        NoiseError: The thought source gives none.
    """
    part = getattr(thought, noise.needs or "latent")
    if part is None:
        raise NoiseError(f"Noise {noise} needs a thought source that gives a {noise.needs}. Choose another of the two.")
    return part
