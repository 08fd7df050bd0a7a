"""Labels, log-probs and entropies of the answers of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
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

    def without(self, others: int) -> Answers:
        """Without the last columns, which stand for actions that are no tokens."""
        kept = self.ids.size(1) - others
        return Answers(self.ids[:, :kept], self.mask[:, :kept], self.width - others)


class ActionLogps(NamedTuple):
    """What a forward says of the actions of rollouts.

    Attributes:
        logps: (B, A) in nats at the rollout temperature; with K further actions (B, A + K).
        entropies: The same shape, in nats.
        state_values: (B, T) of the state after each column, where there is a value head.
        supervision_loss: Mean loss of the labels on latents, where there are any.
        stop_logps: (B, L - 1) in nats of the decisions of the stop head, where there is one.
    """

    logps: Tensor
    entropies: Tensor
    state_values: Tensor | None = None
    supervision_loss: Tensor | None = None
    stop_logps: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[ActionLogps]) -> ActionLogps:
        """Of rollouts that were run in parts. The supervision loss is that of the last part."""
        stops = [part.stop_logps for part in parts if part.stop_logps is not None]
        values = [part.state_values for part in parts if part.state_values is not None]
        return parts[-1]._replace(
            logps=torch.cat([part.logps for part in parts]),
            entropies=torch.cat([part.entropies for part in parts]),
            stop_logps=torch.cat(stops) if stops else None,
            state_values=torch.cat(values) if values else None,
        )

    def beside(self, logps: Tensor, answers: Answers) -> ActionLogps:
        """With log-probs (B, K) of actions that are no tokens. Their entropy is set to the mean one of the tokens."""
        tokens = self.entropies[:, : answers.width].sum() / answers.mask[:, -answers.width :].sum().clamp_min(1)
        return self._replace(
            logps=torch.cat([self.logps, logps], 1),
            entropies=torch.cat([self.entropies, tokens.expand_as(logps)], 1),
        )


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
