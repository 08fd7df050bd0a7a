"""Chains the stages of a recipe: hands checkpoints over, resumes, evaluates, reports."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import set_seed

from ..data.problem import Problem
from .activity import NOW, doing
from .build import build_model
from .evaluate.evaluate import Measurement, ResultsError, measure, read_results, write_results
from .evaluate.report import report_images, write_report
from .evaluate.sample_files import digest
from .evaluate.table import metric_name, print_results
from .files import write_whole
from .launch import announce, check_launched
from .loading import load_reasoner, load_tokenizer
from .problems import load_all
from .recipe import RecipeError
from .run_folder import keep_training_data, open_folder
from .sections import Recipe
from .tracking import Tracker
from .train.arms import ARMS
from .train.common import Context, is_done, on_cpu
from .train.curriculum import stopped_summary, train_curriculum
from .train.examples import encode_checked
from .train.lora_check import check_lora_modules
from .train.rl import train_rl
from .train.sft import train_sft
from .validate import check_recipe
from .wandb_run import print_wandb
from .whole import read_seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run: its name, which is also its folder, the stage it starts from, and what trains it."""

    name: str
    after: str
    train: Callable[[Context, str | Path, Path], None]


def plan(recipe: Recipe) -> list[PlannedStage]:
    """The stages of a recipe in order; controls last."""
    planned: list[PlannedStage] = []
    last = "base"
    for name, is_on, train in (
        ("sft", recipe.sft is not None, train_sft),
        ("curriculum", recipe.curriculum is not None and recipe.controls.latent, train_curriculum),
        ("rl", recipe.rl is not None, train_rl),
    ):
        if is_on:
            planned.append(PlannedStage(name, last, train))
            last = name
    for name in recipe.controls.chosen:
        after = ARMS[name].after
        if after == "sft" and recipe.sft is None:
            after = "base"
        planned.append(PlannedStage(name, after, partial(train_curriculum, arm=name)))
    if not planned:
        raise RecipeError("The recipe has no stage. Give it at least one of sft, curriculum and rl.")
    return planned


def run(recipe: Recipe, resume: bool = False) -> list[Measurement]:
    """Runs a recipe from the first unfinished stage to the report.

    Args:
        resume: Go on with the run that the folder holds; finished stages are kept.

    Raises:
        UserError: Bad input; nothing is overwritten.
    """
    state = join_processes()
    stages = plan(recipe)
    check_recipe(recipe)
    check_launched(recipe)
    with open_folder(recipe, resume):
        NOW.folder = recipe.folder
        announce(state)
        return _run(recipe, stages, state, resume)


def _run(recipe: Recipe, stages: list[PlannedStage], state: PartialState, resume: bool) -> list[Measurement]:
    set_seed(recipe.seed)
    problems = load_all(recipe)
    _build_base(recipe, [*problems.held_out, *problems.train])
    config, tokenizer = load_tokenizer(checkpoint_of(recipe, "base"), recipe.model.trust_remote_code)
    if recipe.model.lora is not None:
        check_lora_modules(recipe.model.lora, config, recipe.model.trust_remote_code)
    encoded = encode_checked(recipe, problems, tokenizer, config)
    evaluation = problems.evaluation
    tracker = Tracker(recipe, recipe.folder, state.is_main_process)
    context = Context(recipe, recipe.folder, problems.train, encoded, problems.held_out, evaluation, tracker, resume)
    keep_training_data(recipe.folder, context.training_data)
    try:
        for stage in stages:
            folder = recipe.folder / stage.name
            if stage.after == "curriculum" and stopped_curriculum(recipe) is not None:
                continue  # it would train what the curriculum could not
            if not is_done(folder):
                tracker.start(stage.name)
                started = time.perf_counter()
                with doing(f"training {stage.name}"):
                    stage.train(context, checkpoint_of(recipe, stage.after), folder)
                _record_seconds(recipe, stage.name, time.perf_counter() - started)
        rows = _evaluate(recipe, trained_stages(recipe, recipe.folder), evaluation, tracker)
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()
    return rows


def stopped_curriculum(recipe: Recipe) -> dict[str, Any] | None:
    """The report of a run's curriculum where it was stopped below a threshold; None for any other run."""
    is_planned = any(stage.name == "curriculum" for stage in plan(recipe))
    return stopped_summary(recipe.folder / "curriculum") if is_planned else None


def trained_stages(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Checkpoints of a run folder by stage, in the order they were trained in.

    A curriculum that was stopped before it promoted any stage has left the weights it began from: it has none.
    """
    found = {stage.name: folder / stage.name / "final" for stage in plan(recipe) if is_done(folder / stage.name)}
    stopped = stopped_summary(folder / "curriculum")
    if stopped is not None and stopped["kept"] is None:
        found.pop("curriculum", None)
    return found


def join_processes() -> PartialState:
    """Joins the processes of a launch; says that it is on CPU, which launchers do not tell their workers."""
    return PartialState(cpu=on_cpu())


def leave_processes() -> None:
    """Ends a launch in step.

    A gloo thread that still holds work when the interpreter goes down aborts the process after a good run, so the
    processes meet and wait a moment first.
    """
    if dist.is_initialized():
        dist.barrier()
        time.sleep(0.5)
        dist.destroy_process_group()


def checkpoint_of(recipe: Recipe, stage: str) -> str | Path:
    """Where a stage's final weights are; for `base`, the hub id or folder the recipe names."""
    if stage == "base" and recipe.model.name_or_path is not None:
        return recipe.model.name_or_path
    return recipe.folder / stage / "final"


def _build_base(recipe: Recipe, problems: list[Problem]) -> None:
    folder = recipe.folder / "base"
    if recipe.model.config is not None:
        if PartialState().is_main_process and not is_done(folder):
            partial = folder / "final.partial"
            shutil.rmtree(partial, ignore_errors=True)
            build_model(recipe.model.config, problems, recipe.seed, partial)
            partial.rename(folder / "final")
        PartialState().wait_for_everyone()


def _record_seconds(recipe: Recipe, stage: str, seconds: float) -> None:
    if PartialState().is_main_process:
        times = read_seconds(recipe.folder)
        times[stage] = times.get(stage, 0.0) + round(seconds, 1)
        write_whole(recipe.folder / "seconds.json", json.dumps(times))


def _evaluate(
    recipe: Recipe, checkpoints: Mapping[str, Path], problems: list[Problem], tracker: Tracker
) -> list[Measurement]:
    """Measures the final checkpoint of every stage, writes results.json and the report, prints the table."""
    state, file = PartialState(), recipe.folder / "results.json"
    rows = _measured(file)
    measured = {row.stage for row in rows}
    missing = [name for name in checkpoints if name not in measured]
    if missing:
        started = time.perf_counter()
        tracker.start("evaluate")
        for name in missing:
            rows += evaluate_checkpoint(recipe, checkpoints[name], name, problems, recipe.folder / "samples")
            if state.is_main_process:
                write_results(file, rows)
        _track_results(tracker, rows)
        _record_seconds(recipe, "evaluate", time.perf_counter() - started)
    if state.is_main_process:
        write_report(recipe.folder)
        images = report_images(recipe.folder)
        tracker.log_images({f"report/{name}": path for name, path in images.items()}, 0)
        print_results(rows, read_seconds(recipe.folder))
        print_places(recipe)
    state.wait_for_everyone()
    return rows


def _measured(file: Path) -> list[Measurement]:
    """What an earlier start of the run has measured. Rows that cannot be read are measured again, from the samples."""
    try:
        return read_results(file) if file.is_file() else []
    except ResultsError as error:
        if PartialState().is_main_process:
            logger.warning("%s is measured again: %s", file, error)
        return []


def evaluate_checkpoint(
    recipe: Recipe, checkpoint: Path, stage: str, problems: list[Problem], samples: Path | None = None
) -> list[Measurement]:
    """Measures one checkpoint under the recipe's evaluate section.

    Args:
        samples: Folder to keep the samples in, one for each stage in it; what it holds already is not drawn again.
    """
    reasoner = load_reasoner(checkpoint, trust_remote_code=recipe.model.trust_remote_code, dtype=recipe.model.dtype)
    reasoner.model.to(PartialState().device)
    folder = source = None
    if samples is not None:
        folder = samples / stage
        source = {"checkpoint": digest(checkpoint), "task": recipe.data.eval.model_dump(mode="json")}
    with torch.no_grad(), doing(f"measuring {stage}"):
        rows = measure(reasoner, problems, recipe.evaluate, stage, recipe.seed, folder, source)
    if stopped_summary(checkpoint.parent) is not None:
        # Latents, then the steps that stayed text; an evaluation that asks for a number of latents says so itself.
        rows = [row if row.num_latents is not None else replace(row, mode="hybrid") for row in rows]
    return rows


def _track_results(tracker: Tracker, rows: list[Measurement]) -> None:
    named: dict[str, Any] = {}
    for row in rows:
        named[f"{row.stage}/{metric_name(row.metric, row.k)}/{row.setting}"] = row.value
    tracker.log(named, 0)
    columns = [field.name for field in fields(Measurement) if field.name != "ci95"]
    table = [[*(getattr(row, name) for name in columns), *row.ci95] for row in rows]
    tracker.log_table("results", [*columns, "low", "high"], table, 0)


def print_places(recipe: Recipe) -> None:
    """Says where to find what the run left."""
    folder = recipe.folder
    print(f"Report       {folder / 'report.html'}")
    print(f"Results      {folder / 'results.json'}")
    print(f"Metrics      {folder / 'metrics.jsonl'}")
    for stage in plan(recipe):
        if is_done(folder / stage.name):
            print(f"Checkpoint   {folder / stage.name / 'final'}")
    print_wandb(recipe, folder)
