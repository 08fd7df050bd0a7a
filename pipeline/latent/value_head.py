"""The critic of PPO: a linear head on the states of the trunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .engine.precision import precise


class ValueHead(nn.Linear):
    """V(s) of states (..., d): the expected return from there. Begins as 0 everywhere.

    Attributes:
        detach: No gradient of the value loss reaches the trunk.
    """

    def __init__(self, hidden_size: int, detach: bool = True) -> None:
        super().__init__(hidden_size, 1)
        self.detach = detach
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Values (...), in float32 or better: bfloat16 would round advantages to multiples of 1/256."""
        states = states.detach() if self.detach else states
        with torch.autocast(states.device.type, enabled=False):
            return precise(super().forward(states.to(self.weight.dtype)).squeeze(-1))


def add_value_head(model: Any, detach: bool = True) -> None:
    """Gives a reasoner a fresh value head, which only training uses."""
    size = model.config.get_text_config().hidden_size
    with torch.random.fork_rng():  # what else training draws must not depend on it
        head = ValueHead(size, detach)
    model.value_head = head.to(device=model.device, dtype=model.dtype)
