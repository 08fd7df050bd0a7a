"""How a run looks in W&B: its name and tags, the config to filter and group by, and what the table of runs shows.

Other trackers show the same project, name, tags and config.
"""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from accelerate import PartialState

from ..recipe.schema import DataSource, Recipe
from ..system.versions import versions

PROJECT = "neuralese"
MOST_TAG = 64  # characters; W&B refuses longer ones
# What the table of runs shows of a metric, beside its last value: the best one where more, or less, is better.
BEST = {"accuracy": "max", "held_out/accuracy": "max", "group/mean": "max", "eval_loss": "min"}


def project(recipe: Recipe) -> str:
    """The project: of the recipe, else WANDB_PROJECT, else neuralese."""
    return recipe.tracking.project or os.environ.get("WANDB_PROJECT") or PROJECT


def run_name(recipe: Recipe, stage: str) -> str:
    """The name of a stage's run: recipe, stage and seed."""
    return f"{recipe.name}-{stage}-seed{recipe.seed}"


def tags(recipe: Recipe) -> list[str]:
    """Task, model, mode of the latents; where RL follows, its algorithm, estimator and noise."""
    model = recipe.model
    found = [_task(recipe.data.train), _last(model.name_or_path) if model.name_or_path else model.config["model_type"]]  # type: ignore[index]
    found.append(recipe.latent.mode)
    if recipe.rl is not None:
        found += [recipe.rl.algorithm, recipe.rl.estimator, recipe.rl.noise or "no noise"]
    return [tag[:MOST_TAG] for tag in dict.fromkeys(found)]


def config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The recipe, which W&B flattens to `latent.loops` and the like, and what the run is made with, under `run`."""
    state = PartialState()
    made = {"stage": stage, "device": state.device.type, "processes": state.num_processes, "versions": versions()}
    return {**recipe.model_dump(mode="json"), "run": made}


def define_metrics(run: Any) -> None:
    """Optimizer steps of the stage become the axis of all metrics; those of `BEST` show their best value as well."""
    run.define_metric("global_step")
    run.define_metric("*", step_metric="global_step")
    for name, best in BEST.items():
        run.define_metric(name, step_metric="global_step", summary=f"{best},last")


def _task(source: DataSource) -> str:
    if source.reasoning_gym is not None:
        return source.reasoning_gym.name
    return source.task or _last(source.dataset or source.path or "")


def _last(path: str) -> str:
    """The last part of a hub id or a path, which says what it is without saying where it lies."""
    return PurePath(path).name or path
