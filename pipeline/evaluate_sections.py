"""The section of a recipe about its evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .rl_sections import Reward
from .section import HomePath, Section

Selector = Literal["majority", "likelihood", "reward", "weighted", "latent_reward", "latent_weighted", "agreement"]


class SamplingSection(Section):
    """Samples of a problem that are drawn apart from each other."""

    noise: str | None = None
    temperature: float = Field(0.0, ge=0)
    answers_per_thought: int = Field(1, gt=0, description="answers drawn after each thought")

    @model_validator(mode="after")
    def _diverse(self) -> SamplingSection:
        if self.noise is None and self.temperature == 0:
            raise ValueError("without noise and with temperature 0 all samples are equal; set one of them")
        if self.answers_per_thought > 1 and self.temperature == 0:
            raise ValueError("answers_per_thought needs a temperature, or all answers of a thought are equal")
        if self.answers_per_thought > 1 and self.noise is None:
            raise ValueError("answers_per_thought needs noise: without it all answers share one thought already")
        return self


class SearchSection(Section):
    """Thoughts of a problem that are searched: a beam, or a tree."""

    kind: Literal["beam", "tree"]
    noise: str = Field(description="on the latents where thoughts branch")
    temperature: float = Field(0.0, ge=0, description="of the answer after each thought")
    children: int = Field(gt=1, description="ways a thought goes on where it branches")
    width: int | None = Field(None, gt=0, description="of a beam: thoughts kept after each latent")
    at: int | str | None = Field(
        None, description="of a tree: the latent where it branches, from 1, each one, or the one answers hang on most"
    )

    @field_validator("at")
    @classmethod
    def _a_place(cls, at: int | str | None) -> int | str | None:
        if at not in (None, "each", "sensitive") and not (isinstance(at, int) and at >= 1):
            raise ValueError(f"{at!r} must be a latent, counted from 1, or each or sensitive")
        return at

    @model_validator(mode="after")
    def _whole(self) -> SearchSection:
        given = {"beam": self.width, "tree": self.at}
        wrong = {"beam": "at", "tree": "width"}[self.kind]
        if given[self.kind] is None:
            need = {"beam": "width", "tree": "at (a latent, each or sensitive)"}[self.kind]
            raise ValueError(f"a {self.kind} needs {need}")
        if getattr(self, wrong) is not None:
            raise ValueError(f"a {self.kind} has no {wrong}; remove it")
        return self


class EvaluateSection(Section):
    problems: int | None = Field(1000, gt=0, description="evaluation problems; None: all")
    num_samples: int = Field(16, gt=0)
    k: list[int] = Field(default_factory=lambda: [1, 4, 16])
    sampling: list[SamplingSection] = Field(default_factory=lambda: [SamplingSection(temperature=1.0)])
    search: list[SearchSection] = Field(default_factory=list)
    num_latents: int | None = Field(
        None, ge=0, description="of checkpoints with latents: think so many; 0: in text; None: as many as trained"
    )
    selectors: tuple[Selector, ...] = Field(
        ("majority",), description="ways to choose one of k samples, see docs/algorithm.md"
    )
    selection_reward: Reward | None = Field(None, description="by which reward and weighted choose")
    latent_reward: HomePath | None = Field(None, description="folder of the latent reward model, which judges thoughts")
    scorer: HomePath = Field("exact_match", description="reward function; a score above 0.5 counts as right")
    max_new_tokens: int = Field(64, gt=0)
    batch_size: int = Field(256, gt=0, description="answers drawn at once")
    bootstrap: int = Field(1000, gt=0, description="resamples behind the 95% intervals that are bootstrapped")

    @model_validator(mode="after")
    def _counts_fit(self) -> EvaluateSection:
        if max(self.k, default=0) > self.num_samples or min(self.k, default=1) < 1:
            raise ValueError(f"k={self.k} must lie between 1 and num_samples={self.num_samples}")
        for sampling in self.sampling:
            if self.num_samples % sampling.answers_per_thought:
                raise ValueError(
                    f"num_samples={self.num_samples} must be a multiple of "
                    f"answers_per_thought={sampling.answers_per_thought}"
                )
        if self.num_latents is not None and (self.search or self.latent_reward is not None):
            raise ValueError("search and latent_reward need the latents that were trained; remove num_latents")
        return self

    @model_validator(mode="after")
    def _selectors_fit(self) -> EvaluateSection:
        needy = [name for name in self.selectors if name in ("reward", "weighted")]
        if needy and self.selection_reward is None:
            raise ValueError(
                f"selectors {', '.join(needy)} choose by a reward; give selection_reward (a function or a model), "
                "or leave them out"
            )
        if self.selection_reward is not None and not needy:
            raise ValueError("selection_reward is used by the selectors reward and weighted; add one of them")
        judged: list[str] = [name for name in self.selectors if name.startswith("latent_")]
        judged += ["search (a beam)" for search in self.search if search.kind == "beam"][:1]
        if judged and self.latent_reward is None:
            raise ValueError(
                f"{', '.join(judged)} needs latent_reward, the folder of a latent reward model "
                "(`neuralese reward-model` trains one)"
            )
        if self.latent_reward is not None and not judged:
            raise ValueError(
                "latent_reward is used by the selectors latent_reward and latent_weighted and by a beam; add one of "
                "them"
            )
        return self
