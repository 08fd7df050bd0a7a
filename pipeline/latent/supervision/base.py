"""What supervisions share: the states they read, and the module they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

IGNORE = -100


@dataclass
class States:
    """What a forward over latents knows before its loss.

    Attributes:
        hidden: (B, S, d) last hidden states in packed order.
        latents: (B, L, d) the vectors fed back, zero beyond a row's count.
        packed_column: (B, T) packed column of each cell of the batch.
        layers: (B, Q, d) hidden states after each layer at the last Q packed columns, for supervisions that need them.
    """

    hidden: Tensor
    latents: Tensor
    packed_column: Tensor
    layers: tuple[Tensor, ...] = ()


class Supervision(nn.Module):
    """An auxiliary loss.

    Attributes:
        needs_layers: Whether it reads the hidden states of all layers.
    """

    needs_layers: ClassVar[bool] = False

    @classmethod
    def check(cls, options: dict[str, Any], config: Any) -> None:
        """Checks the values of options against a model with this text config.

        Raises:
            ValueError: A value out of its range.
        """

    def count(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Labels of its own in a batch, which its loss is the mean over; None: it counts by those of the text."""
        return None

    def forward(self, model: Any, states: States, batch: dict[str, Tensor]) -> Tensor:
        """The loss in nats, summed over the batch; a scalar."""
        raise NotImplementedError
