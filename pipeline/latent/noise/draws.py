"""The random numbers that a kind of noise makes its draws from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import philox
from ..philox import Stream


@dataclass(frozen=True)
class LatentDraws:
    """Random numbers for the latents of B rollouts.

    Each depends on the seed of its rollout, its loop, latent and dimension alone, and not on the batch, on how many
    latents or dimensions there are, or on the device. Numbers of `normal` and `uniform`, and those of a latent and of a
    rollout, are independent of each other. The numbers of seed -s mirror those of s, which makes antithetic pairs.

    Attributes:
        seeds: (B,) one for each rollout. The numbers are made on their device.
        num_latents: L
        width: W, numbers for each latent.
        loops: R loops with draws of their own; None: there are no loops.
    """

    seeds: Tensor
    num_latents: int
    width: int
    loops: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, L, W); with loops (B, R, L, W)."""
        loops = () if self.loops is None else (self.loops,)
        return (len(self.seeds), *loops, self.num_latents, self.width)

    def normal(self, per_rollout: bool = False) -> Tensor:
        """Standard normal numbers of `shape` in float32; those of seed -s are the negatives of those of s.

        Args:
            per_rollout: The same for all latents of a rollout: (B, 1, W); with loops (B, 1, 1, W).
        """
        stream = Stream.ROLLOUT_NORMAL if per_rollout else Stream.LATENT_NORMAL
        return philox.normal(*self._coordinates(stream, per_rollout)).mul_(self._sign())

    def uniform(self, per_rollout: bool = False) -> Tensor:
        """Uniform numbers from (0, 1), ends excluded, of `shape` in float32; those of seed -s are 1 minus those of s.

        Args:
            per_rollout: As in `normal`.
        """
        stream = Stream.ROLLOUT_UNIFORM if per_rollout else Stream.LATENT_UNIFORM
        sign = self._sign()
        return philox.uniform(*self._coordinates(stream, per_rollout)).mul_(sign).add_((1 - sign) / 2)

    def _coordinates(self, stream: Stream, per_rollout: bool) -> tuple[Tensor, Stream, Tensor | int, Tensor | int, int]:
        seeds = self.seeds.long().abs().view(-1, *[1] * (len(self.shape) - 2))
        if per_rollout:
            return seeds, stream, 0, 0, self.width
        latent = torch.arange(self.num_latents, device=seeds.device)
        loop = 0 if self.loops is None else torch.arange(self.loops, device=seeds.device)[:, None]
        return seeds, stream, latent, loop, self.width

    def _sign(self) -> Tensor:
        return torch.where(self.seeds < 0, -1.0, 1.0).view(-1, *[1] * (len(self.shape) - 1))
