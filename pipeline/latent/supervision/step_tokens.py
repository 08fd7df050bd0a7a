"""Every latent of a step stands for one token of it, which the model's own head must read."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..engine.precision import precise
from .base import IGNORE, States, Supervision


class StepTokens(Supervision):
    """L = mean over labelled slots of −log p(y | state before the slot) (LOTUS, arXiv 2606.31779).

    Slot j of the block of a step is labelled with token j of the step. The label is predicted, as that of any token,
    from the position before it; where all latents are made at once, in the last pass. It has no weights of its own.
    """

    def __init__(self, model: PreTrainedModel, label_padding: bool = False) -> None:
        """
        Args:
            label_padding: Slots beyond the end of a step, and blocks beyond the last step, are labelled with the
                end-of-sequence token. False: they have no label.
        """
        super().__init__()

    @classmethod
    def check(cls, options: dict[str, Any], config: Any) -> None:
        if not isinstance(options.get("label_padding", False), bool):
            raise ValueError(f"label_padding={options['label_padding']!r} must be true or false")

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["slot_labels"] != IGNORE).sum()

    def forward(self, model: Any, states: States, batch: dict[str, Tensor]) -> Tensor:
        """
        Args:
            batch: `slot_labels` (B, T), the label of each placeholder; -100 elsewhere.
        """
        labels = batch["slot_labels"][:, 1:]
        rows, columns = (labels != IGNORE).nonzero(as_tuple=True)
        # Run also where no slot has a label: under ZeRO-3 all ranks run the same modules.
        logits = model.head_logits(states.hidden[rows, states.packed_column[rows, columns]])  # (N, V)
        return F.cross_entropy(precise(logits), labels[rows, columns], reduction="sum")


def slot_labels(steps: list[list[int]], num_latents: int, latents_per_step: int, padding: int) -> list[int]:
    """The label of each of a problem's slots: token j of step k for slot j of block k.

    Args:
        steps: Token ids of all steps that have a block.
        padding: Label of slots beyond the end of a step.
    """
    blocks = [*steps, *([] for _ in range(num_latents // latents_per_step - len(steps)))]
    return [
        token for step in blocks for token in [*step[:latents_per_step], *[padding] * (latents_per_step - len(step))]
    ]
