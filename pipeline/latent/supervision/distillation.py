"""The state before the answer is drawn to that of the text chain of thought."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..engine.layout import positions_of
from ..engine.precision import precise
from .base import IGNORE, States, Supervision


class Distillation(Supervision):
    """L = L_teacher + γ · mean_l smooth_l1(h_l, sg[h*_l]) / std(h*_l) (CODI, arXiv 2502.21074).

    The same model is teacher and student. h* are its hidden states on the text chain of thought, at the token before
    the answer; h those after latents. L_teacher is the loss on the text, which keeps the teacher good. Departures: std
    is that of a row's own state, not of the batch, so that a row's loss does not depend on the rows beside it; the
    parts of a row count as often as it has labels.
    """

    needs_layers = True

    def __init__(self, model: PreTrainedModel, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    @classmethod
    def check(cls, options: dict[str, Any], config: Any) -> None:
        gamma = options.get("gamma", 1.0)
        if not (isinstance(gamma, int | float) and gamma > 0):
            raise ValueError(f"gamma={gamma} must be above 0")

    def forward(self, model: Any, states: States, batch: dict[str, Tensor]) -> Tensor:
        """
        Args:
            batch: `teacher_ids`, `teacher_mask`, `teacher_labels` (B, U) the text form; `teacher_position`,
                `student_position` (B,) columns of the token before the answer; `num_labels` (B,) labels of a row.
        """
        labels, weight = batch["teacher_labels"], batch["num_labels"].float()  # (B, U), (B,)
        output = model.base_model(
            input_ids=batch["teacher_ids"],
            attention_mask=batch["teacher_mask"],
            position_ids=positions_of(batch["teacher_mask"]),
            use_cache=False,
            output_hidden_states=True,
        )
        rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        logits = model.head_logits(output.last_hidden_state[rows, columns])
        losses = F.cross_entropy(precise(logits), labels[rows, columns + 1], reduction="none")
        share = weight / (labels[:, 1:] != IGNORE).sum(1)  # (B,)
        teacher = (losses * share[rows]).sum()
        row = torch.arange(len(labels), device=labels.device)
        packed = states.packed_column[row, batch["student_position"]]
        # (B,) in the last pass, which holds the answers of all rows with latents. A row without is its own teacher.
        column = packed - (states.hidden.size(1) - states.layers[0].size(1))
        distance = torch.zeros_like(weight)
        for theirs, ours in zip(output.hidden_states[1:], states.layers, strict=True):
            target = theirs[row, batch["teacher_position"]].detach().float()  # (B, d)
            state = ours[row, column.clamp_min(0)].float()
            distance = distance + F.smooth_l1_loss(state, target, reduction="none").mean(1) / target.std(1)
        return teacher + self.gamma * (distance / len(states.layers) * weight * (column >= 0)).sum()
