"""Keys of the section evaluate."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import HomePath, Section
from .rl import Reward

MonitorScore = Literal["distance", "valid", "logprob"]
Selector = Literal["majority", "likelihood", "reward", "weighted", "latent_reward", "latent_weighted", "agreement"]


class SamplingSection(Section):
    """A setting of the evaluation: samples of a problem that are drawn independently."""

    noise: str | None = Field(None, description="noise on the latents as kind:scale; None: none")
    temperature: float = Field(0.0, ge=0, description="temperature of the answers; 0: the most likely token")
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
    """A setting of the evaluation: a search over the thoughts of a problem, by a beam or a tree."""

    kind: Literal["beam", "tree"] = Field(description="a beam keeps the best thoughts after each latent; a tree all")
    noise: str = Field(description="noise on the latents where thoughts branch, as kind:scale")
    temperature: float = Field(0.0, ge=0, description="temperature of the answer after each thought")
    children: int = Field(gt=1, description="continuations of a thought where it branches")
    width: int | None = Field(None, gt=0, description="of a beam: thoughts kept after each latent")
    at: int | str | None = Field(
        None,
        description="of a tree: the latent where it branches, counted from 1; each; or sensitive, the latent that the "
        "answers depend on most",
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
    """How finished stages are measured: greedily, and with every setting of sampling and search."""

    problems: int | None = Field(1000, gt=0, description="evaluation problems; None: all")
    num_samples: int = Field(16, gt=0, description="samples of a problem in each setting")
    k: list[int] = Field(default_factory=lambda: [1, 4, 16], description="each k of pass@k and of the selectors")
    sampling: list[SamplingSection] = Field(
        default_factory=lambda: [SamplingSection(temperature=1.0)], description="settings of independent samples"
    )
    search: list[SearchSection] = Field(default_factory=list, description="settings that search over thoughts")
    num_latents: int | None = Field(
        None, ge=0, description="latents of a thought, where a model has any; 0: it thinks in text; None: as trained"
    )
    loops: int | None = Field(
        None, gt=0, description="loops of a thought, where a model has looped latents; None: as trained"
    )
    latents_per_step: int | None = Field(
        None, gt=0, description="latents of each block of a thought, where a model has any; None: as trained"
    )
    thought: Literal["vectors", "as_text"] = Field(
        "vectors",
        description="what the answer sees of a thought, where a model has one: its latents, or the tokens read in them",
    )
    monitor: tuple[MonitorScore, ...] = Field(
        ("distance", "valid"),
        description="scores of what is read in greedy thoughts, to tell wrong answers by; logprob loads the sft model, "
        "also while rl measures held-out problems",
    )
    selectors: tuple[Selector, ...] = Field(
        ("majority",), description="ways to choose one of k samples, see docs/algorithm.md"
    )
    selection_reward: Reward | None = Field(None, description="the reward that the selectors reward and weighted read")
    latent_reward: HomePath | None = Field(None, description="folder of the latent reward model")
    scorer: HomePath = Field("exact_match", description="reward function; a score above 0.5 counts as right")
    max_new_tokens: int = Field(64, gt=0, description="most tokens of an answer, or of text steps and answer")
    batch_size: int = Field(256, gt=0, description="most answers drawn at once")
    batch_tokens: int | None = Field(
        None,
        gt=0,
        description="most tokens (question, latents, answer) held at once of all answers drawn; None: by free memory",
    )
    bootstrap: int = Field(1000, gt=0, description="resamples of a bootstrapped 95% interval")

    @property
    def at_once(self) -> dict[str, Any]:
        """What bounds a draw, as keyword arguments of `Reasoner.generate`."""
        return {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens}

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
        changed = [name for name in ("num_latents", "loops", "latents_per_step") if getattr(self, name) is not None]
        changed += ["thought=as_text"] if self.thought == "as_text" else []
        if changed and (self.search or self.latent_reward is not None):
            raise ValueError(
                f"search and latent_reward need the latents that were trained; remove {' and '.join(changed)}"
            )
        if self.num_latents is not None and self.latents_per_step is not None:
            raise ValueError("num_latents and latents_per_step both say how many latents a thought has; remove one")
        if self.thought == "as_text" and self.num_latents == 0:
            raise ValueError("thought=as_text has no latent to read with num_latents=0; remove one of them")
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
