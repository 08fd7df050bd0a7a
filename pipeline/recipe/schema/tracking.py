"""Keys of the section tracking."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class TrackingSection(Section):
    """Weights & Biases. metrics.jsonl in the run folder is always written."""

    wandb: bool = Field(True, description="record the run in Weights & Biases; offline where there is no key")
    project: str | None = Field(None, description="W&B project; None: WANDB_PROJECT, else neuralese")
    entity: str | None = Field(None, description="W&B entity; None: WANDB_ENTITY, else that of the key")
