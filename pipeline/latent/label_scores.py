"""Log-probs and entropies of labels, with a bounded number of logits at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .engine.precision import precise
from .thoughts import suppress

# Logits at once. With their copies in float32 that softmax and its gradient need they take about 1.5 GB.
MOST_LOGITS = 2**26


class Score(NamedTuple):
    """How labels are scored, as RL does it, in place of a cross-entropy.

    Attributes:
        temperature: What logits are divided by.
        suppressed: Token ids that are never sampled, of the latent tokens.
    """

    temperature: float
    suppressed: tuple[int, int, int]


def label_scores(model: Any, hidden: Tensor, target: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (N,) in nats of labels (N,), from the states (N, d) that predict them.

    Where there are more than `MOST_LOGITS` logits, they are made anew in the backward, part by part, and never kept.
    """
    rows = max(1, MOST_LOGITS // model.config.get_text_config().vocab_size)
    if len(target) <= rows:
        return _scores(model, hidden, target, score)
    found = [
        checkpoint(_scores, model, some, labels, score, use_reentrant=False)
        for some, labels in zip(hidden.split(rows), target.split(rows), strict=True)
    ]
    logps, entropies = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logps, entropies


def _scores(model: Any, hidden: Tensor, target: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    # Divided first: below 1 it would make the suppressed logits infinite, and their entropy no number.
    logits = precise(model.head_logits(hidden)) / score.temperature
    distribution = suppress(logits, score.suppressed).log_softmax(-1)
    chosen = distribution.gather(1, target[:, None]).squeeze(1)
    return chosen, -(distribution.exp() * distribution).sum(-1)
