"""The critic of PPO: a linear head on the states of the trunk, and its values of the states of a thought."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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


def and_next(is_latent: Tensor) -> Tensor:
    """Mask (B, S) that is also set behind each latent of `is_latent` (B, S): at what the last one is followed by."""
    return is_latent | F.pad(is_latent, (1, 0))[:, :-1]


def thought_values(state_values: Tensor, is_latent: Tensor, most_latents: int, decides: bool = False) -> Tensor:
    """Values (B, L) of the states before the latents of each row, its first latent first; 0 beyond its count.

    Args:
        state_values: (B, T) of the state after each column.
        is_latent: (B, T) the latents that were made.
        most_latents: L.
        decides: A stop head ends thoughts. Behind the latents of a thought of fewer than L stands the value of the
            state in which it decided to stop.
    """
    before = F.pad(state_values, (1, 0))[:, :-1]  # of the state before each column
    is_step = and_next(is_latent) if decides else is_latent
    row, column = is_step.nonzero(as_tuple=True)
    turn = (is_step.cumsum(1) - 1)[row, column]
    values = before.new_zeros(len(before), most_latents + 1).index_put((row, turn), before[row, column])
    return values[:, :most_latents]
