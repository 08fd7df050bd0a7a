"""Keys of the section tracking."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Section

Report = Literal["wandb", "tensorboard", "mlflow", "trackio"]


class TrackingSection(Section):
    """Where a run is recorded. metrics.jsonl in the run folder is always written."""

    report_to: tuple[Report, ...] = Field(
        ("wandb",), description="trackers: wandb (offline where there is no key), tensorboard, mlflow, trackio; or none"
    )
    project: str | None = Field(None, description="project; None: WANDB_PROJECT, else neuralese")
    tables_every: int | None = Field(
        50,
        ge=1,
        description="optimizer steps from one table of RL's rollouts in W&B to the next; None: neither these nor the "
        "table of followed problems",
    )
    log_model: bool = Field(False, description="send the weights of every stage to W&B, as an artifact")
    push_to_hub: str | None = Field(
        None, description="OWNER/NAME on the Hugging Face Hub that gets the weights of the last stage at the end"
    )
    entity: str | None = Field(None, description="W&B entity; None: WANDB_ENTITY, else that of the key")

    @model_validator(mode="before")
    @classmethod
    def _wandb_alone(cls, values: Any) -> Any:
        # Recipes up to version 0.1 know W&B alone: tracking.wandb is true or false.
        if not isinstance(values, dict) or "wandb" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "wandb"}
        if values["wandb"] not in (True, False):
            raise ValueError(f"wandb={values['wandb']!r} must be true or false; better, name trackers in report_to")
        if values["wandb"]:
            return rest
        others = [name for name in _names(rest.get("report_to", ())) if name != "wandb"]
        return {**rest, "report_to": others}

    @field_validator("report_to", mode="before")
    @classmethod
    def _none_or_names(cls, value: Any) -> Any:
        return _names(value)


def _names(value: Any) -> Any:
    """A list of names, of which one alone may be given as a string, and none of which is `none`, as in Transformers."""
    names = [value] if isinstance(value, str) else list(value or ())
    if "none" in names and len(names) > 1:
        raise ValueError(f"{names} names trackers and none; take one of the two")
    return [] if names == ["none"] else names
