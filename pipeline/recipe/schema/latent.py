"""Keys of the section latent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Section

# The modes that make all latents at once -> the key with the number of their passes.
PASSES = {"jacobi": "jacobi_sweeps", "looped": "loops"}


class LatentSection(Section):
    """How latents are made, from the curriculum on."""

    thought_source: str = Field("norm_matched", description="what a latent is made of, see docs/algorithm.md")
    thought_options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the thought source")
    latents_per_step: int | Literal["auto"] = Field(
        1, description="latents that replace one text step; auto: tokens of the longest step of the training problems"
    )
    max_latents_per_step: int = Field(32, gt=0, description="most latents of a step with latents_per_step=auto")
    max_latents: int | None = Field(None, gt=0, description="most latents of a thought; None: no limit")
    delimiters: bool = Field(False, description="special tokens around the latents")
    stop_head: bool = Field(False, description="a head ends the thought; the number of latents becomes a maximum")
    mode: Literal["sequential", "jacobi", "looped"] = Field(
        "sequential", description="latents one after the other, or all at once in Jacobi sweeps or in loops"
    )
    jacobi_sweeps: int | None = Field(None, gt=0, description="of mode jacobi: the number of sweeps")
    loops: int | Literal["blocks"] | None = Field(
        None, description="of mode looped: the number of loops; blocks: as many as the level has blocks of latents"
    )
    injection: Literal["add", "replace"] = Field(
        "add", description="of mode looped: a thought is added to the placeholder's embedding, or replaces it"
    )
    window: int | None = Field(
        None,
        gt=0,
        description="latents in sight of a latent, itself included, and of the text after; None: all; 1: a state",
    )
    sees_question: bool = Field(True, description="latents after the first, and the text after them, see the question")
    backprop_steps: int | None = Field(
        None, ge=0, description="only the last latents (sweeps, loops), this number of them, carry gradient; None: all"
    )

    @property
    def block_size(self) -> int:
        """`latents_per_step` as a number. While it is auto, before the problems are tokens, a block counts as one."""
        return 1 if self.latents_per_step == "auto" else self.latents_per_step

    def passes(self, num_latents: int) -> dict[str, Any]:
        """The fields of a `LatentConfig` that say in which passes so many latents are made, and what they see."""
        blocks = max(num_latents // self.block_size, 1)
        return {
            "jacobi_sweeps": self.jacobi_sweeps,
            "loops": blocks if self.loops == "blocks" else self.loops,
            "window": self.window,
            "sees_question": self.sees_question,
        }

    @model_validator(mode="before")
    @classmethod
    def _mode_of_its_passes(cls, values: Any) -> Any:
        # Recipes up to version 0.2 have no mode: jacobi_sweeps alone said it.
        if isinstance(values, dict) and "mode" not in values:
            for mode, key in PASSES.items():
                if values.get(key) is not None:
                    return {**values, "mode": mode}
        return values

    @field_validator("latents_per_step")
    @classmethod
    def _some_latents(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{value} must be at least 1, or auto")
        return value

    @field_validator("loops")
    @classmethod
    def _loops_are_some(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError(
                f"{value} must be at least 1, or blocks; latents without a loop are pause tokens: thought_source=pause"
            )
        return value

    @model_validator(mode="after")
    def _passes_of_the_mode(self) -> LatentSection:
        for mode, key in PASSES.items():
            value = getattr(self, key)
            if mode == self.mode and value is None:
                raise ValueError(f"mode={mode} needs {key}, the number of its passes")
            if mode != self.mode and value is not None:
                raise ValueError(f"{key}={value} belongs to mode={mode}, but mode is {self.mode}; remove one of them")
        if self.injection != "add" and self.mode != "looped":
            raise ValueError(f"injection={self.injection} belongs to mode=looped, but mode is {self.mode}")
        return self

    @model_validator(mode="after")
    def _one_after_the_other(self) -> LatentSection:
        for name, is_set in (
            ("stop_head", self.stop_head),
            ("window", self.window is not None),
            ("sees_question=false", not self.sees_question),
        ):
            if is_set and self.mode != "sequential":
                raise ValueError(
                    f"{name} needs latents made one after the other, but mode is {self.mode}; remove {name} or "
                    f"{PASSES[self.mode]}"
                )
        return self

    @model_validator(mode="after")
    def _whole_steps(self) -> LatentSection:
        if self.max_latents is None or self.latents_per_step == "auto":
            return self
        if self.max_latents % self.latents_per_step:
            raise ValueError(
                f"max_latents={self.max_latents} must be a multiple of latents_per_step={self.latents_per_step}"
            )
        return self
