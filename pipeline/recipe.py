"""Recipes: a YAML file and `key=value` overrides, checked strictly, frozen once read.

Our own keys are few. Each training stage hands its `trainer:` mapping to TRL's or Transformers' config class under
that class's own field names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..data.errors import UserError


class RecipeError(UserError):
    """A recipe that cannot be run as written."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ModelSection(Section):
    """The base model: a hub id or folder, or an untrained model built from a Transformers config."""

    name_or_path: str | None = None
    config: dict[str, Any] | None = Field(None, description="model_type and the fields of that Transformers config")
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; None trains all weights")

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if (self.name_or_path is None) == (self.config is None):
            raise ValueError("give exactly one of name_or_path (hub id or folder) and config (to build a new model)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs a model_type, for example gpt2")
        return self


class DataSource(Section):
    """Problems from a generated task, a local file, or a Hugging Face dataset."""

    task: Literal["chain"] | None = None
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the task")
    size: int | None = Field(None, gt=0, description="problems to generate")
    path: str | None = None
    dataset: str | None = None
    name: str | None = Field(None, description="configuration of the Hugging Face dataset")
    split: str = "train"
    columns: dict[str, str | None] | None = Field(None, description="our field -> their column")
    step_splitter: Literal["line", "sentence", "gsm8k"] | None = None
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
    latents_per_step: int = Field(1, gt=0)
    max_stage: int | None = Field(None, gt=0, description="steps that become latent; None: as many as there are")
    jacobi_sweeps: int | None = Field(
        None, gt=0, description="make all latents at once in so many fixed-point sweeps; None: one pass a latent"
    )
    backprop_steps: int | None = Field(
        None, ge=0, description="only the last so many latents (sweeps) carry gradient; None: all"
    )


class SFTSection(Section):
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.SFTConfig")


class CurriculumSection(Section):
    """One Trainer per stage. `trainer.max_steps` is the step limit of each stage."""

    promote_at: float | None = Field(
        0.95, gt=0, le=1, description="held-out greedy accuracy that ends a stage; None: never"
    )
    last_stage_at: float | None = Field(None, gt=0, le=1, description="the same for the last stage, where it differs")
    eval_every: int = Field(100, gt=0, description="optimizer steps between two measurements")
    eval_problems: int = Field(256, gt=0, description="training problems held out for the measurement")
    mix_earlier: float = Field(0.0, ge=0, le=1, description="share of items shown at an earlier stage")
    supervision_weight: float = Field(0.0, ge=0, description="weight of the next-step loss on latents")
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of transformers.TrainingArguments")


class Reward(Section):
    function: str
    weight: float = 1.0


class RLSection(Section):
    noise: str | None = "gaussian:0.1"
    rewards: list[Reward] = Field(default_factory=lambda: [Reward(function="exact_match")], min_length=1)
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.GRPOConfig")


class SamplingSection(Section):
    noise: str | None = None
    temperature: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _diverse(self) -> SamplingSection:
        if self.noise is None and self.temperature == 0:
            raise ValueError("without noise and with temperature 0 all samples are equal; set one of them")
        return self


class EvaluateSection(Section):
    problems: int | None = Field(1000, gt=0, description="evaluation problems; None: all")
    num_samples: int = Field(16, gt=0)
    k: list[int] = Field(default_factory=lambda: [1, 4, 16])
    sampling: list[SamplingSection] = Field(default_factory=lambda: [SamplingSection(temperature=1.0)])
    scorer: str = Field("exact_match", description="reward function; a score above 0.5 counts as right")
    max_new_tokens: int = Field(64, gt=0)
    batch_size: int = Field(256, gt=0, description="answers drawn at once")
    bootstrap: int = Field(1000, gt=0, description="resamples behind the 95% intervals")

    @model_validator(mode="after")
    def _k_fits(self) -> EvaluateSection:
        if max(self.k, default=0) > self.num_samples or min(self.k, default=1) < 1:
            raise ValueError(f"k={self.k} must lie between 1 and num_samples={self.num_samples}")
        return self


class ControlsSection(Section):
    """Extra training runs that show whether latents do the work. Off by default: they take as long as the run."""

    no_cot: bool = False
    pause: bool = False


class TrackingSection(Section):
    wandb: bool = True
    project: str = "neuralese"
    entity: str | None = None


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    output_dir: str = "outputs"
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
        if (self.controls.no_cot or self.controls.pause) and self.curriculum is None:
            raise ValueError("controls train under the curriculum section, which is missing")
        return self

    @property
    def folder(self) -> Path:
        return Path(self.output_dir) / self.name

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-5 as the number it is (YAML 1.1 wants 1.0e-5)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and applies `dotted.key=value` overrides; values are YAML.

    Raises:
        RecipeError: Missing file, YAML that does not parse, unknown key, wrong type, or a bad override.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(_missing_file(path))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of recipe keys, it holds {type(values).__name__}.")
    for override in overrides:
        _apply(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Checks a mapping against the recipe's fields. `where` names it in errors."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(_explain(item) for item in error.errors()) + ".") from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"Override {override!r} is not of the form key=value, for example rl.trainer.max_steps=100.")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"The value of override {override!r} is no valid YAML.") from error
    *parents, last = key.split(".")
    for parent in parents:
        child = values.get(parent)
        if child is None:
            child = values[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"Override {override!r}: {parent} is no section, it is {child!r}.")
        values = child
    values[last] = value


def _explain(item: Any) -> str:
    """One pydantic error in words, with the nearest known key for a mistyped one."""
    location = [part for part in item["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    name = ".".join(map(str, location)) or "recipe"
    if item["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"unknown key {name!r}{nearest(str(location[-1]), known)}"
    if item["type"] == "missing":
        return f"key {name!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    received = "" if item["type"] == "value_error" else f" (received {item['input']!r})"
    return f"{name}: {message}{received}"


def _fields_at(location: Sequence[str | int]) -> list[str]:
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint with the nearest known name, or with all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else f"; known here: {', '.join(sorted(known))}"


def _missing_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path(".")
    names = [str(other.relative_to(folder)) for other in folder.glob("*.yaml")]
    hint = nearest(path.name, names) if names else ""
    return f"No recipe at {path}{hint} `neuralese recipes list` shows the recipes that come with the package."
