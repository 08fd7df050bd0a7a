"""The end of a run: measures the finished stages, writes results.json and the report, prints the table."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ...data.problem import Problem
from ..evaluate.measure import (
    Measurement,
    ResultsError,
    measure,
    read_results,
    write_results,
)
from ..evaluate.report.page import report_images, write_report
from ..evaluate.table import metric_name, print_results
from ..model.load import load_reasoner
from ..recipe.schema import Recipe
from ..scoring.sample_files import digest
from ..system.activity import doing
from ..system.files import size_of, write_whole
from ..system.integrity import read_seconds
from ..system.processes import on_main
from ..tracking.tracker import Tracker
from ..tracking.wandb_run import print_wandb
from ..train.curriculum.reports import stopped_summary
from ..train.hand_over import is_done
from .monitor import monitor_of
from .plan import plan

logger = logging.getLogger(__name__)


def record_seconds(recipe: Recipe, stage: str, seconds: float) -> None:
    """Adds wall-clock seconds to those of a stage in seconds.json. `evaluate` counts as a stage there."""
    if PartialState().is_main_process:
        times = read_seconds(recipe.folder)
        times[stage] = times.get(stage, 0.0) + round(seconds, 1)
        write_whole(recipe.folder / "seconds.json", json.dumps(times))


def measure_stages(
    recipe: Recipe, checkpoints: Mapping[str, Path], problems: list[Problem], tracker: Tracker
) -> list[Measurement]:
    """Measures every stage that results.json does not hold yet, then writes the report and prints the table.

    Args:
        checkpoints: Final weights by stage.
    """
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
        record_seconds(recipe, "evaluate", time.perf_counter() - started)
    if state.is_main_process:
        write_report(recipe.folder)
        images = report_images(recipe.folder)
        tracker.log_images({f"report/{name}": path for name, path in images.items()}, 0)
        tracker.log_artifact("report", "report", [recipe.folder / "report.html", file])
        print_results(rows, read_seconds(recipe.folder))
        print_places(recipe)
    state.wait_for_everyone()
    return rows


def _measured(file: Path) -> list[Measurement]:
    """Rows of results.json from an earlier launch. None from an unreadable file: all is measured again."""
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
        samples: Folder to keep the samples in, in a folder for each stage. Samples that it holds are not drawn again.
    """
    reasoner = load_reasoner(checkpoint, **recipe.model.loading)
    reasoner.model.to(PartialState().device)
    folder = source = None
    if samples is not None:
        folder = samples / stage
        task = recipe.data.eval.model_dump(mode="json")
        source = {
            "checkpoint": on_main(lambda: digest(checkpoint)),
            "task": task,
            "dtype": reasoner.config.compute_dtype,
        }
        if recipe.model.quantization is not None:
            source["quantization"] = recipe.model.quantization.model_dump()
    with torch.no_grad(), doing(f"measuring {stage}"):
        monitor = monitor_of(recipe, reasoner, checkpoint)
        rows = measure(reasoner, problems, recipe.evaluate, stage, recipe.seed, folder, source, monitor)
    if stopped_summary(checkpoint.parent) is not None:
        # The kept level writes text steps after its latents. Rows of evaluate.num_latents keep their mode.
        rows = [row if row.num_latents is not None else replace(row, mode="hybrid") for row in rows]
    return rows


def _track_results(tracker: Tracker, rows: list[Measurement]) -> None:
    """Records the results as metrics, and as a table in W&B."""
    named: dict[str, Any] = {}
    for row in rows:
        named[f"{row.stage}/{metric_name(row.metric, row.k)}/{row.setting}"] = row.value
        for name, found in (row.monitor or {}).items():
            if found.auroc is not None:
                named[f"{row.stage}/monitor_{name}/{row.setting}"] = found.auroc
    tracker.log(named, 0)
    columns = [field.name for field in fields(Measurement) if field.name not in ("ci95", "monitor")]
    table = [[*(getattr(row, name) for name in columns), *row.ci95] for row in rows]
    tracker.log_table("results", [*columns, "low", "high"], table, 0)


def print_places(recipe: Recipe) -> None:
    """Prints where the files of the run are."""
    folder = recipe.folder
    print(f"Report       {folder / 'report.html'}")
    print(f"Results      {folder / 'results.json'}")
    print(f"Metrics      {folder / 'metrics.jsonl'}")
    for stage in plan(recipe):
        if is_done(folder / stage.name):
            final = folder / stage.name / "final"
            print(f"Checkpoint   {final} ({size_of(final) / 1e6:,.1f} MB)")
    print_wandb(recipe, folder)
