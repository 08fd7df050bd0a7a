"""When a thought ends: the decisions of the stop head, and how likely they were.

The head reads the state after a latent, and p = sigmoid(w · h + b) is the chance that this latent is the last. A
thought of at most L latents has a decision after each of its latents but the L-th, where it ends in any case. Inference
ends a thought where p is above 1/2 (`LatentMixin.is_complete`). RL draws the decisions (`StopDraws`), and `stop_logps`
says how likely they are, under these weights or later ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine.precision import precise
from .philox import Stream, uniform
from .supervision import States


def stop_logits(head: nn.Module, states: Tensor) -> Tensor:
    """Logits (...) of the chance that a thought is complete, after states (..., d)."""
    return precise(head(states).squeeze(-1))


class StopDraws:
    """Draws the decisions of N thoughts. Each depends on its probability, the seed of its thought and its latent alone.

    Seeds s and -s draw apart: the advantages of a group take the decisions of its thoughts to be independent.

    Attributes:
        logps: (N, L - 1) log-prob in nats of each decision that was made, 0 where there was none.
    """

    def __init__(self, head: nn.Module, seeds: Tensor, num_latents: int) -> None:
        """
        Args:
            seeds: (N,) one for each thought.
            num_latents: L, the most latents of a thought.
        """
        self.head = head
        self.numbers = uniform(seeds, Stream.STOP, 0, 0, max(num_latents - 1, 0))  # (N, L - 1)
        self.logps = torch.zeros_like(self.numbers)
        self.is_complete = torch.zeros_like(seeds, dtype=torch.bool)

    def __call__(self, states: Tensor, made: Tensor) -> Tensor:
        """Which thoughts (N,) are complete, now or since earlier.

        Args:
            states: (N, d) after the latest latent of each row.
            made: (N,) its latents so far; a thought without latents is not complete.
        """
        decides = (made > 0) & ~self.is_complete
        row, turn = decides.nonzero().squeeze(1), made[decides] - 1
        logits = stop_logits(self.head, states[row])
        ends = self.numbers[row, turn] < logits.sigmoid()
        self.logps[row, turn] = F.logsigmoid(torch.where(ends, logits, -logits)).to(self.logps)
        self.is_complete[row[ends]] = True
        return self.is_complete


def stop_logps(head: nn.Module, states: States, is_latent: Tensor, num_latents: int) -> Tensor:
    """Log-probs (B, L - 1) in nats of what the stop head decided after each latent, 0 where it decided nothing.

    Args:
        is_latent: (B, T) the latents of each thought: it went on after all but its last, and ended there.
        num_latents: L, the most latents of a thought. What has as many was ended by that.
    """
    rows, columns = is_latent.nonzero(as_tuple=True)
    logits = stop_logits(head, states.hidden[rows, states.packed_column[rows, columns]])
    made = is_latent.cumsum(1)[rows, columns]
    logps = F.logsigmoid(torch.where(made == is_latent.sum(1)[rows], logits, -logits))
    width = max(num_latents, is_latent.size(1))
    return logps.new_zeros(len(is_latent), width).index_put((rows, made - 1), logps)[:, : max(num_latents - 1, 0)]
