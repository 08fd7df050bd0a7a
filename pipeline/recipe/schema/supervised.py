"""Keys of the sections sft, curriculum and controls."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Section


class SFTSection(Section):
    """The stage sft: supervised fine-tuning on text chain of thought."""

    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.SFTConfig")


class CurriculumSection(Section):
    """The stage curriculum, and its controls: level by level, latents replace more text steps.

    A level ends at its threshold (promote_at), out of patience, or at its limit: trainer.max_steps or
    trainer.num_train_epochs.
    """

    preset: str | None = Field(None, description="a published schedule that fills in what the recipe leaves out")
    steps_per_level: int | list[int | Literal["all"]] = Field(
        1, description="text steps that each level replaces; a list: one number for each level, all at its end"
    )
    pad_latents: bool = Field(
        True, description="all problems of a level have its latents; false: latents for their own steps"
    )
    promote_at: float | None = Field(
        0.95, gt=0, le=1, description="greedy held-out accuracy that promotes a level and ends it; None: never"
    )
    last_level_at: float | None = Field(None, gt=0, le=1, description="promote_at of the last level; None: the same")
    patience: int | None = Field(
        None, gt=0, description="measurements in a row without a new best that end a level; None: never"
    )
    at_limit: Literal["stop", "continue"] = Field(
        "stop", description="what follows a level that ends below its threshold: no further level, or the next one"
    )
    step_back_at: float | None = Field(
        None, gt=0, le=1, description="below this accuracy on the level below, that level is trained again; None: never"
    )
    max_step_backs: int = Field(1, gt=0, description="how often a level may be trained again")
    eval_every: int = Field(100, gt=0, description="optimizer steps between two measurements")
    eval_problems: int = Field(256, gt=0, description="held-out problems of a measurement")
    mix_earlier: float = Field(0.0, ge=0, le=1, description="share of items shown at a random level up to this one")
    supervision: Literal["none", "next_step", "step_tokens", "decoder", "distillation"] = Field(
        "none", description="what latents are taught besides the answer, see docs/algorithm.md"
    )
    supervision_weight: float = Field(1.0, gt=0, description="weight of the supervision's loss")
    supervision_options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the supervision"
    )
    noise: str | None = Field(None, description="noise on the latents in the last level, as kind:scale")
    noise_ramp: float = Field(
        0.5, ge=0, le=1, description="share of the last level's limit over which the noise grows from 0"
    )
    reset_optimizer: bool = Field(True, description="each level begins with a fresh optimizer")
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of transformers.TrainingArguments")
    last_level_trainer: dict[str, Any] = Field(default_factory=dict, description="fields that differ in the last level")

    @field_validator("steps_per_level", mode="before")
    @classmethod
    def _whole_schedule(cls, value: Any) -> Any:
        steps = value if isinstance(value, list) else [value]
        numbers = steps[:-1] if isinstance(value, list) and steps[-1:] == ["all"] else steps
        if not steps or not all(type(step) is int and step >= 1 for step in numbers):
            raise ValueError(
                f"{value!r} must be a number of at least 1, or a list of such numbers whose last entry may be all"
            )
        return value

    @model_validator(mode="after")
    def _measured(self) -> CurriculumSection:
        if self.step_back_at is not None and self.promote_at is None:
            raise ValueError("step_back_at needs promote_at, the threshold that is measured")
        return self


class ControlsSection(Section):
    """The arms to train on the same data with the same limits. Controls are off by default: each takes as long as the
    curriculum."""

    latent: bool = Field(True, description="the arm latent, which is the stage curriculum; false: no curriculum, no rl")
    text_cot: bool = Field(False, description="text chain of thought for as many optimizer steps")
    no_cot: bool = Field(False, description="question -> answer, from the base model")
    pause: bool = Field(False, description="pause tokens in place of latents, in one pass")
    pause_multi: bool = Field(False, description="pause tokens in place of latents, one pass for each")
    no_curriculum: bool = Field(False, description="the last level only, for as many optimizer steps as all levels")
    more_supervised: bool = Field(
        False, description="the last level instead of rl, for as many optimizer steps and samples"
    )

    @property
    def chosen(self) -> list[str]:
        """The controls that are on."""
        return [name for name, on in self if on and name != "latent"]
