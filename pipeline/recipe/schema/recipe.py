"""A whole recipe."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, model_validator

from .base import HomePath, Section
from .data import DataSection
from .evaluate import EvaluateSection
from .latent import LatentSection
from .model import ModelSection
from .rl import RLSection
from .supervised import ControlsSection, CurriculumSection, SFTSection
from .tracking import TrackingSection


class Recipe(Section):
    """A whole recipe. A stage without its section (sft, curriculum, rl) is not trained."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run and of its folder")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of all random numbers; its range is NumPy's")
    output_dir: HomePath = Field("outputs", description="folder of run folders")
    resume_from: HomePath | None = Field(
        None,
        pattern="^.+@(sft|curriculum|rl)$",
        description="FOLDER@STAGE: begin with the finished stages of another run, up to this one",
    )
    plugins: list[HomePath] = Field(
        default_factory=list, description="modules or files that register your own noises and thought sources"
    )
    model: ModelSection = Field(description="the base model")
    data: DataSection = Field(description="training and evaluation problems")
    latent: LatentSection = Field(LatentSection(), description="how latents are made")
    sft: SFTSection | None = Field(None, description="stage: text chain of thought")
    curriculum: CurriculumSection | None = Field(None, description="stage: text steps become latents")
    rl: RLSection | None = Field(None, description="stage: reinforcement learning on sampled answers")
    evaluate: EvaluateSection = Field(EvaluateSection(), description="how finished stages are measured")
    controls: ControlsSection = Field(ControlsSection(), description="control arms to train besides")
    tracking: TrackingSection = Field(TrackingSection(), description="Weights & Biases")

    @model_validator(mode="after")
    def _controls_fit(self) -> Recipe:
        if self.controls.chosen and self.curriculum is None:
            raise ValueError("controls train under the curriculum section, which is missing")
        if self.controls.more_supervised and (self.rl is None or "max_steps" not in self.rl.trainer):
            raise ValueError("controls.more_supervised takes as many optimizer steps as RL; give rl.trainer.max_steps")
        if not self.controls.latent and self.rl is not None:
            raise ValueError("controls.latent=false leaves no latents for rl to train; set rl=null")
        if not self.controls.latent and not self.controls.chosen:
            raise ValueError("controls.latent=false trains controls alone; choose one, such as controls.no_cot=true")
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
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output_dir) / self.name

    @property
    def stages(self) -> dict[str, SFTSection | CurriculumSection | RLSection]:
        """The sections of stages that are trained, by name and in their order."""
        sections = {"sft": self.sft, "curriculum": self.curriculum, "rl": self.rl}
        return {name: section for name, section in sections.items() if section is not None}

    @property
    def held_out(self) -> int:
        """Number of held-out problems: the most that a stage measures on while it trains."""
        count = self.curriculum.eval_problems if self.curriculum is not None else 0
        return max(count, self.rl.eval_problems) if self.rl is not None and self.rl.eval_every is not None else count

    def to_yaml(self) -> str:
        """The recipe with all defaults, as it is kept in the run folder."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
