"""The model of a Trainer between two steps, as rollouts and measurements run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation

from ..latent.engine.synced_passes import synced_passes
from .lora import inner_model


@contextmanager
def generating(trainer: Any) -> Iterator[PreTrainedModel]:
    """The latent reasoner that a Trainer trains, for passes outside of training.

    Under ZeRO-3 its weights are whole on every process, or, without `ds3_gather_for_generation`, gathered layer by
    layer: then `meet` must stand before every collective inside.
    """
    with unwrap_model_for_generation(
        trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=trainer.ds3_gather_for_generation
    ) as model:
        policy = inner_model(model)
        with nullcontext() if trainer.ds3_gather_for_generation else synced_passes(policy, trainer.model_wrapped):
            yield policy
