"""Labels, log-probs and entropies of the answers of rollouts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Answers(NamedTuple):
    """Rollouts as token ids, with the answers in the last columns.

    Attributes:
        ids: (B, T)
        mask: (B, T) 1 at tokens and placeholders, 0 at padding.
        width: A, the number of answer columns.
    """

    ids: Tensor
    mask: Tensor
    width: int

    @property
    def labels(self) -> Tensor:
        """(B, T) labels on the answer tokens, -100 elsewhere."""
        labels = self.ids.masked_fill(self.mask == 0, -100)
        labels[:, : -self.width] = -100
        return labels

    def select(self, rows: Tensor | slice) -> Answers:
        return Answers(self.ids[rows], self.mask[rows], self.width)


class ActionLogps(NamedTuple):
    """What a forward says of the actions of rollouts.

    Attributes:
        logps: (B, A) in nats at the rollout temperature; with latents as actions (B, A + L).
        entropies: The same shape, in nats.
        state_values: (B, T) of the state after each column, where there is a value head.
        supervision_loss: Mean loss of the labels on latents, where there are any.
    """

    logps: Tensor
    entropies: Tensor
    state_values: Tensor | None = None
    supervision_loss: Tensor | None = None


def answers_of(rollouts: dict[str, Any]) -> Answers:
    """The rows of TRL's batch: questions with their answers behind them."""
    ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], 1)
    mask = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], 1)
    return Answers(ids, mask, rollouts["completion_ids"].size(1))


def answer_logps(logps: Tensor, entropies: Tensor, answers: Answers) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (B, A) from those (N,) of the answer tokens in row-major order, 0 elsewhere."""
    is_answer = answers.labels[:, -answers.width :] != -100
    empty = logps.new_zeros(is_answer.shape)
    return empty.masked_scatter(is_answer, logps), empty.masked_scatter(is_answer, entropies)
