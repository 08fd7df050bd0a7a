"""The sweep file, and the cells (arm x seed) it asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neuralese.data.errors import UserError
from neuralese.pipeline.recipe.load import Recipe, load_recipe, nearest

RUNS = Path("outputs/sweeps")
PLACE = Path("docs/results")  # sweep files, their rows and the pages with their tables


class SweepError(UserError):
    """A sweep that cannot be run or rendered as asked."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Strict):
    recipe: str
    overrides: list[str] = Field(default_factory=list, description="key=value, after those of the sweep")
    label: str | None = Field(None, description="name in the tables; None: the arm's key")
    seeds: list[int] | None = Field(None, min_length=1, description="None: those of the sweep")
    stages: list[str] | None = Field(None, description="stages to show; None: those of the sweep")
    after: str | None = Field(None, description="an arm above that runs first; stages trained alike are taken from it")


class Show(Strict):
    stages: list[str] | None = Field(None, description="stages of the results to show; None: all")
    metrics: list[str] = Field(default_factory=lambda: ["accuracy"], min_length=1)
    held_out: list[str] = Field(
        default_factory=list, description="what RL measures on held-out problems, such as thought/readable"
    )

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: list[str]) -> list[str]:
        for metric in metrics:
            if not re.fullmatch(r"accuracy|(pass|maj|likelihood|reward|weighted|latent_reward)@[1-9]\d*", metric):
                raise ValueError(f"{metric!r} is no metric; write accuracy, pass@16 or maj@16")
        return metrics


class Sweep(Strict):
    """The sweep file."""

    title: str
    seeds: list[int] = Field(min_length=1)
    overrides: list[str] = Field(default_factory=list, description="key=value for the recipes of all arms")
    arms: dict[str, Arm] = Field(min_length=1)
    show: Show = Show()

    @field_validator("arms")
    @classmethod
    def _labels_differ(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        labels = [arm.label or name for name, arm in arms.items()]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"two arms are labelled {twice!r}; the tables could not tell them apart")
        return arms


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a repeated key: of two arms of one name the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise SweepError(f"Line {key.start_mark.line + 1}: the key {key.value!r} stands twice. Rename one.")
        return super().construct_mapping(node, deep)


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        SweepError: Invalid YAML, unknown key, wrong type, or a key that stands twice.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        return Sweep.model_validate(values)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from None
    except ValidationError as error:
        raise SweepError(f"{path}: " + "; ".join(_explain(item) for item in error.errors()) + ".") from None


def _explain(item: Any) -> str:
    location = item["loc"]
    name = ".".join(map(str, location)) or "sweep file"
    if item["type"] == "extra_forbidden":
        model = {"arms": Arm, "show": Show}[location[0]] if len(location) > 1 else Sweep
        return f"unknown key {name!r}{nearest(str(location[-1]), list(model.model_fields))}"
    if item["type"] == "missing":
        return f"key {name!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + ("" if item["type"] == "value_error" else f" (received {item['input']!r})")


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: a run of a recipe, and the row of results it leaves."""

    sweep: str
    arm: str
    seed: int
    recipe: Recipe
    arguments: tuple[str, ...]  # of `neuralese train`
    after: Cell | None = None  # takes over the stages that both train alike

    @property
    def row_file(self) -> Path:
        return PLACE / self.sweep / f"{self.arm}-seed{self.seed}.json"

    def beside(self, suffix: str) -> Path:
        """A file beside the run folder."""
        return self.recipe.folder.with_name(self.recipe.name + suffix)


def cells_of(name: str, sweep: Sweep) -> list[Cell]:
    """All cells in the order of the file, seeds innermost.

    Raises:
        SweepError: A recipe that is missing or cannot be run, or an override that only the sweep may set.
    """
    cells: list[Cell] = []
    for arm_name, arm in sweep.arms.items():
        for override in (*sweep.overrides, *arm.overrides):
            if override.partition("=")[0] in ("name", "seed", "output_dir"):
                raise SweepError(f"Arm {arm_name!r}: override {override!r} is set by the sweep. Remove it.")
        seeds = arm.seeds or sweep.seeds
        if len(set(seeds)) < len(seeds):
            raise SweepError(f"Arm {arm_name!r}: a seed stands twice in {seeds}.")
        for seed in seeds:
            ours = [f"name={name}-{arm_name}-seed{seed}", f"seed={seed}", f"output_dir={RUNS}"]
            overrides = [*sweep.overrides, *arm.overrides, *ours]
            try:
                recipe = _with_dtype(load_recipe(arm.recipe, overrides))
            except UserError as error:
                raise SweepError(f"Arm {arm_name!r}: {error}") from error
            before = next((cell for cell in cells if (cell.arm, cell.seed) == (arm.after, seed)), None)
            if arm.after is not None and before is None:
                raise SweepError(f"Arm {arm_name!r}: after={arm.after!r} is no arm above it with seed {seed}.")
            cells.append(Cell(name, arm_name, seed, recipe, (arm.recipe, *overrides), before))
    return cells


def _with_dtype(recipe: Recipe) -> Recipe:
    """The recipe with what `model.dtype: auto` stands for, as rows hold it."""
    if recipe.model.dtype != "auto":
        return recipe
    from neuralese.pipeline.model.dtype import with_dtype  # with the libraries that read models

    return with_dtype(recipe)


def choose(cells: Sequence[Cell], only: Sequence[str], shard: str | None) -> list[Cell]:
    """The cells of the arms in `only` (empty: all arms). Of these, shard I/N takes every Nth, beginning with the Ith.

    Raises:
        SweepError: An unknown arm, or a malformed shard.
    """
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    for arm in only:
        if arm not in arms:
            raise SweepError(f"The sweep has no arm {arm!r}{nearest(arm, arms)}.")
    chosen = [cell for cell in cells if not only or cell.arm in only]
    if shard is None:
        return chosen
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise SweepError(f"--shard {shard} is not of the form I/N with I from 1 to N, for example 2/8.")
    return chosen[int(match[1]) - 1 :: int(match[2])]
