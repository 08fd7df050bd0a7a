"""Chains the stages of a recipe: prepares the run folder, hands checkpoints over, resumes, evaluates, reports."""

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

from ..data.errors import UserError
from ..data.problem import Problem
from .build import build_model
from .evaluate.evaluate import Measurement, measure, read_results, write_results
from .evaluate.report import report_images, write_report
from .evaluate.sample_files import digest
from .evaluate.table import metric_name, print_results
from .files import write_whole
from .loading import load_reasoner, load_tokenizer
from .problems import load_all
from .recipe import RecipeError, load_recipe
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

logger = logging.getLogger(__name__)


class RunError(UserError):
    """A run folder that cannot be used as asked."""


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
    prepare_folder(recipe, resume)
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
    try:
        for stage in stages:
            folder = recipe.folder / stage.name
            if stage.after == "curriculum" and stopped_curriculum(recipe) is not None:
                continue  # it would train what the curriculum could not
            if not is_done(folder):
                tracker.start(stage.name)
                started = time.perf_counter()
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


def prepare_folder(recipe: Recipe, resume: bool) -> None:
    """Makes the run folder, or checks that it holds this recipe's run.

    A run that ended before its first stage, as bad data end it, left nothing to protect: it is begun anew.

    Raises:
        RunError: The folder holds another recipe's run, or this one's without `resume`.
    """
    state, file = PartialState(), recipe.folder / "recipe.yaml"
    is_begun = any((recipe.folder / name).is_dir() for name in ("sft", "curriculum", "rl", *ARMS))
    if file.is_file() and is_begun:
        held = load_recipe(file)
        # What is measured may change between runs; what was trained may not.
        free = {"evaluate", "controls", "tracking", "output_dir"}
        trained, asked = _as_trained(held), _as_trained(recipe)
        changed = [key for key in Recipe.model_fields if key not in free and trained[key] != asked[key]]
        if changed:
            raise RunError(
                f"{recipe.folder} already holds the run of another recipe: it differs in {', '.join(changed)}. "
                "Nothing was changed. Choose another name (name=...), or move the folder away."
            )
        if not resume:
            raise RunError(
                f"{recipe.folder} already holds a run of this recipe. Nothing was changed. Add --resume to go on with "
                "it, or choose another name (name=...)."
            )
    elif not file.is_file() and recipe.folder.is_dir() and any(recipe.folder.iterdir()):
        raise RunError(f"{recipe.folder} exists and holds no run of ours. Choose another name (name=...).")
    state.wait_for_everyone()
    if state.is_main_process:
        recipe.folder.mkdir(parents=True, exist_ok=True)
        if not is_begun:
            shutil.rmtree(recipe.folder / "base", ignore_errors=True)
        elif held.evaluate != recipe.evaluate:
            (recipe.folder / "results.json").unlink(missing_ok=True)  # measured in another way than asked for now
        write_whole(file, recipe.to_yaml())
    state.wait_for_everyone()


def _as_trained(recipe: Recipe) -> dict[str, Any]:
    """A recipe without how long rewards are waited for: a run that a slow one ended may go on with more patience."""
    values = recipe.model_dump()
    for reward in (values["rl"] or {}).get("rewards", []):
        for key in ("timeout", "retries", "on_error"):
            del reward[key]
    return values


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


def read_seconds(folder: Path) -> dict[str, float]:
    """Wall-clock seconds of each stage, as recorded in the run folder."""
    file = folder / "seconds.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _evaluate(
    recipe: Recipe, checkpoints: Mapping[str, Path], problems: list[Problem], tracker: Tracker
) -> list[Measurement]:
    """Measures the final checkpoint of every stage, writes results.json and the report, prints the table."""
    state, file = PartialState(), recipe.folder / "results.json"
    rows = [] if not file.is_file() else read_results(file)
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
    with torch.no_grad():
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
    offline = sorted((folder / "wandb").glob("offline-run-*"))
    if offline:
        print(f"W&B          {len(offline)} offline runs; to upload: wandb sync {folder / 'wandb'}/offline-run-*")
    elif recipe.tracking.wandb:
        print(f"W&B          project {recipe.tracking.project}, group {recipe.name}")
