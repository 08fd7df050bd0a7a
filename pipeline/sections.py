"""The sections of a recipe: every key, its type and its default. Strict, and frozen once read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from .evaluate_sections import EvaluateSection
from .rl_sections import RLSection
from .section import HomePath, Section


class ModelSection(Section):
    """The base model: a hub id or folder, or an untrained model built from a Transformers config."""

    name_or_path: HomePath | None = None
    config: dict[str, Any] | None = Field(None, description="model_type and the fields of that Transformers config")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="what all stages and measurements compute in; weights are float32"
    )
    trust_remote_code: bool = False
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; None trains all weights")

    @field_validator("dtype", mode="before")
    @classmethod
    def _trains(cls, value: Any) -> Any:
        if value not in ("float32", "bfloat16"):
            raise ValueError(
                f"{value!r} is nothing that stages train in: take float32, or bfloat16, which has float32's range, for "
                "matrix products in half precision over weights in float32"
            )
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if (self.name_or_path is None) == (self.config is None):
            raise ValueError("give exactly one of name_or_path (hub id or folder) and config (to build a new model)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs a model_type, for example gpt2")
        return self


class DataSource(Section):
    """Problems from a generated task, a local file, or a Hugging Face dataset."""

    task: str | None = Field(None, description="a generated task: chain, prosqa or graph_path")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the task")
    size: int | None = Field(None, gt=0, description="problems to generate")
    path: HomePath | None = None
    dataset: HomePath | None = None
    name: str | None = Field(None, description="configuration of the Hugging Face dataset")
    split: str = "train"
    columns: dict[str, str | None] | None = Field(None, description="our field -> their column")
    step_splitter: Literal["line", "sentence", "gsm8k", "prosqa_symbolic"] | None = None
    limit: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> DataSource:
        if sum(origin is not None for origin in (self.task, self.path, self.dataset)) != 1:
            raise ValueError("give exactly one of task, path and dataset")
        if self.task is not None and self.size is None:
            raise ValueError("a generated task needs a size, the number of problems")
        return self


class DataSection(Section):
    train: DataSource
    eval: DataSource


class LatentSection(Section):
    thought_source: str = "norm_matched"
    thought_options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the thought source")
    latents_per_step: int = Field(1, gt=0)
    max_latents: int | None = Field(None, gt=0, description="no more latents than these; None: for every step")
    delimiters: bool = Field(False, description="special tokens around the latents")
    stop_head: bool = Field(False, description="a head ends the thought; num_latents becomes a maximum")
    jacobi_sweeps: int | None = Field(
        None, gt=0, description="make all latents at once in so many fixed-point sweeps; None: one pass a latent"
    )
    backprop_steps: int | None = Field(
        None, ge=0, description="only the last so many latents (sweeps) carry gradient; None: all"
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> LatentSection:
        if self.max_latents is not None and self.max_latents % self.latents_per_step:
            raise ValueError(
                f"max_latents={self.max_latents} must be a multiple of latents_per_step={self.latents_per_step}"
            )
        if self.stop_head and self.jacobi_sweeps is not None:
            raise ValueError("stop_head needs latents made one after the other; remove jacobi_sweeps")
        return self


class SFTSection(Section):
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.SFTConfig")


class CurriculumSection(Section):
    """One Trainer per stage. `trainer.max_steps` or `trainer.num_train_epochs` is the limit of each stage."""

    preset: str | None = Field(None, description="a published schedule that fills in what the recipe leaves out")
    steps_per_stage: int | list[int | Literal["all"]] = Field(
        1, description="text steps each stage removes; a list says it stage by stage"
    )
    pad_latents: bool = Field(True, description="all problems of a stage have its latents; false: those of their steps")
    promote_at: float | None = Field(
        0.95, gt=0, le=1, description="held-out greedy accuracy that ends a stage; None: never"
    )
    last_stage_at: float | None = Field(None, gt=0, le=1, description="the same for the last stage, where it differs")
    patience: int | None = Field(None, gt=0, description="measurements without a new best that end a stage; None: any")
    at_limit: Literal["stop", "continue"] = Field(
        "stop", description="what follows a stage that ends below its threshold"
    )
    step_back_at: float | None = Field(
        None, gt=0, le=1, description="below this accuracy on the stage before, that one is trained again; None: never"
    )
    max_step_backs: int = Field(1, gt=0, description="times that a stage may be trained again")
    eval_every: int = Field(100, gt=0, description="optimizer steps between two measurements")
    eval_problems: int = Field(256, gt=0, description="training problems held out for the measurement")
    mix_earlier: float = Field(0.0, ge=0, le=1, description="share of items shown at an earlier stage")
    supervision: Literal["none", "next_step", "decoder", "distillation"] = "none"
    supervision_weight: float = Field(1.0, gt=0, description="weight of the supervision's loss")
    supervision_options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the supervision"
    )
    noise: str | None = Field(None, description="noise on the latents in the last stage, as kind:scale")
    noise_ramp: float = Field(0.5, ge=0, le=1, description="share of the last stage in which the noise grows from 0")
    reset_optimizer: bool = Field(True, description="each stage begins with a fresh optimizer")
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of transformers.TrainingArguments")
    last_stage_trainer: dict[str, Any] = Field(default_factory=dict, description="those of the last stage that differ")

    @field_validator("steps_per_stage", mode="before")
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
    """Arms of the curriculum, each trained on the same data with the same limits. All but `latent` are off by default:
    they take as long as the run."""

    latent: bool = Field(True, description="the arm itself; false leaves it and RL out")
    text_cot: bool = False
    no_cot: bool = False
    pause: bool = False
    pause_multi: bool = False
    no_curriculum: bool = False
    more_supervised: bool = Field(False, description="in place of RL as many supervised steps on as many samples")

    @property
    def chosen(self) -> list[str]:
        """The controls that are on."""
        return [name for name, on in self if on and name != "latent"]


class TrackingSection(Section):
    wandb: bool = True
    project: str | None = Field(None, description="None: WANDB_PROJECT, else neuralese")
    entity: str | None = Field(None, description="None: WANDB_ENTITY, else that of the key")


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**32, description="NumPy takes no other")
    output_dir: HomePath = "outputs"
    plugins: list[HomePath] = Field(
        default_factory=list, description="modules or files that register noises and thought sources of one's own"
    )
    model: ModelSection
    data: DataSection
    latent: LatentSection = LatentSection()
    sft: SFTSection | None = None
    curriculum: CurriculumSection | None = None
    rl: RLSection | None = None
    evaluate: EvaluateSection = EvaluateSection()
    controls: ControlsSection = ControlsSection()
    tracking: TrackingSection = TrackingSection()

    @model_validator(mode="after")
    def _controls_fit(self) -> Recipe:
        if self.controls.chosen and self.curriculum is None:
            raise ValueError("controls train under the curriculum section, which is missing")
        if self.controls.more_supervised and (self.rl is None or "max_steps" not in self.rl.trainer):
            raise ValueError("controls.more_supervised takes as many steps as RL; give rl.trainer.max_steps")
        if not self.controls.latent and (self.rl is not None or not self.controls.chosen):
            raise ValueError("controls.latent=false leaves nothing for rl to train; set rl=null and choose a control")
        section = self.curriculum
        if self.latent.stop_head and section is not None and section.pad_latents:
            raise ValueError(
                "latent.stop_head learns nothing where all problems have as many latents; set "
                "curriculum.pad_latents=false"
            )
        if section is not None and not section.pad_latents and not self.latent.stop_head:
            raise ValueError(
                "curriculum.pad_latents=false trains on as many latents as a problem has steps, which nobody knows "
                "when the model is used; set latent.stop_head=true"
            )
        if self.latent.stop_head and self.controls.pause:
            raise ValueError("controls.pause runs its tokens in one pass and cannot stop; choose controls.pause_multi")
        if self.latent.stop_head and self.rl is not None:
            raise ValueError("rl replays a fixed number of latents and cannot train with latent.stop_head; set rl=null")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.output_dir) / self.name

    @property
    def held_out(self) -> int:
        """Training problems kept apart, for the curriculum and for RL to be measured on."""
        count = self.curriculum.eval_problems if self.curriculum is not None else 0
        return max(count, self.rl.eval_problems) if self.rl is not None and self.rl.eval_every is not None else count

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
