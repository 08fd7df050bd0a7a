"""What an estimator is: its share of replay, and the weight of its densities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .....data.errors import UserError


class EstimatorError(UserError):
    """An estimator that cannot be used as asked."""


def full(hidden_size: int) -> float:
    """The log-density as it is: the sum over d dimensions."""
    return 1.0


@dataclass(frozen=True)
class Estimator:
    """A gradient estimator: replay, the score function, or a mixture of both.

    Attributes:
        name: As the recipe says it.
        replay: Share of replay in the loss. The rest is the score function's.
        weight: Factor on the log-density of a latent of d dimensions.
    """

    name: str
    replay: float
    weight: Callable[[int], float] = full

    @property
    def uses_density(self) -> bool:
        """Whether it needs the density of latents."""
        return self.replay < 1.0

    def parts(self) -> list[tuple[float, bool]]:
        """The parts of the loss: the share of each, and whether latents are actions in it (the score function)."""
        return [(share, acts) for share, acts in ((self.replay, False), (1.0 - self.replay, True)) if share > 0]

    def weigh(self, logps: Tensor, hidden_size: int) -> Tensor:
        """Weighted log-densities of latents."""
        return logps * self.weight(hidden_size)
