"""Latent supervision: help for the latents while they are trained. Nothing of it is needed at inference.

- `none`: the loss on the text after the latents alone (Coconut).
- `next_step`: the state a latent is made from also predicts the first token of the step it stands for, through the
  model's own head. A label on the placeholder, so the ordinary loss does it. For steps of one token.
- `step_tokens`: the same for every token of a step, with one latent for each (`StepTokens`).
- `decoder`: an auxiliary decoder reads each latent and predicts all tokens of its step (`StepDecoder`).
- `distillation`: the state before the answer is drawn to that of the text chain of thought (`Distillation`).

A supervision that is a module gets what `collate.Collator` puts under `supervision_inputs` in a batch. It returns a sum
that the model divides by the number of labels in the batch, or by that of its own labels (`Supervision.count`), so that
accumulated micro-batches equal one big batch.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..config import ModelError, check_options
from .base import IGNORE, States, Supervision
from .decoder import StepDecoder
from .distillation import Distillation
from .step_tokens import StepTokens, slot_labels

__all__ = [
    "IGNORE",
    "SUPERVISIONS",
    "Distillation",
    "States",
    "StepDecoder",
    "StepTokens",
    "Supervision",
    "build_supervision",
    "check_supervision",
    "slot_labels",
]

SUPERVISIONS: dict[str, type[Supervision] | None] = {
    "none": None,
    "next_step": None,
    "step_tokens": StepTokens,
    "decoder": StepDecoder,
    "distillation": Distillation,
}


def build_supervision(model: PreTrainedModel, name: str, options: dict[str, Any]) -> Supervision | None:
    """The module of a supervision, or None where it needs none.

    Raises:
        ModelError: Unknown name or option, or a value the supervision refuses.
    """
    check_supervision(name, options, model.config.get_text_config())
    kind = SUPERVISIONS[name]
    return kind(model, **options) if kind is not None else None


def check_supervision(name: str, options: dict[str, Any], config: Any = None) -> None:
    """What can be checked without a model.

    Args:
        config: The model's text config; None: values that depend on it are not checked.

    Raises:
        ModelError: Unknown name or option, or a value the supervision refuses.
    """
    if name not in SUPERVISIONS:
        raise ModelError(f"Unknown supervision {name!r}. Choose one of {sorted(SUPERVISIONS)}.")
    kind = SUPERVISIONS[name]
    check_options("supervision_options", options, kind, f"supervision {name!r}")
    if kind is not None and config is not None:
        try:
            kind.check(options, config)
        except ValueError as error:
            raise ModelError(f"supervision_options={options} of {name!r}: {error}") from error
