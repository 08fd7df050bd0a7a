"""Where numbers go while a run lasts: metrics.jsonl always, Weights & Biases by default."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .files import write_whole
from .metrics_file import mend, read_rows, write_rows
from .sections import Recipe

logger = logging.getLogger(__name__)


class Tracker:
    """Writes metrics on the main process; does nothing on the others.

    W&B has one group per pipeline and one run per stage. Without a key it works offline, in the run folder.
    """

    def __init__(self, recipe: Recipe, folder: Path, is_main: bool) -> None:
        self.recipe, self.folder, self.is_main = recipe, folder, is_main
        self.stage = ""
        self.wandb_run: Any = None
        if is_main:
            mend(folder / "metrics.jsonl")

    def start(self, stage: str) -> None:
        """Begins (or, on resume, goes on with) the W&B run of a stage."""
        self.finish()
        self.stage = stage
        if self.is_main and self.recipe.tracking.wandb:
            self.wandb_run = _start_wandb(self.recipe, self.folder, stage)

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Records metrics at an optimizer step of the current stage, counted from the stage's start."""
        if not self.is_main:
            return
        # NaN is no JSON; a metric that could not be computed is written as null.
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        row = {"stage": self.stage, "step": step, "time": round(time.time(), 3), **clean}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.wandb_run is not None:
            self.wandb_run.log({**metrics, "global_step": step})

    def forget_after(self, step: int) -> None:
        """Drops what the current stage wrote to metrics.jsonl after a step: a resumed run trains from there again."""
        file = self.folder / "metrics.jsonl"
        if not self.is_main or not file.is_file():
            return
        rows = read_rows(file)
        kept = [row for row in rows if row["stage"] != self.stage or row["step"] <= step]
        if len(kept) < len(rows):
            write_rows(file, kept)

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """Records a table in W&B, at an optimizer step of the current stage."""
        if self.wandb_run is not None:
            import wandb

            self.wandb_run.log({name: wandb.Table(columns=columns, data=rows), "global_step": step})

    def log_images(self, images: Mapping[str, Path], step: int) -> None:
        """Records image files in W&B under their names, at an optimizer step of the current stage."""
        if self.wandb_run is not None and images:
            import wandb

            shown = {name: wandb.Image(str(path)) for name, path in images.items()}
            self.wandb_run.log({**shown, "global_step": step})

    def finish(self, exit_code: int = 0) -> None:
        """Ends the W&B run of the current stage, as failed where exit_code is not 0."""
        if self.wandb_run is not None:
            self.wandb_run.finish(exit_code=exit_code)
            self.wandb_run = None


def _wandb_id(folder: Path) -> str:
    """A token of the run folder: runs of one name in other folders or on other machines stay apart in W&B."""
    path = folder / "wandb_id"
    token = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    if not re.fullmatch("[0-9a-f]{8}", token):
        if path.is_file():
            logger.warning("%s cannot be read. W&B shows what follows as runs of their own.", path)
        token = secrets.token_hex(4)
        write_whole(path, token)
    return token


def _start_wandb(recipe: Recipe, folder: Path, stage: str) -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    options: dict[str, Any] = {
        "project": recipe.tracking.project,
        "entity": recipe.tracking.entity,
        "group": recipe.name,
        "job_type": stage,
        "name": f"{recipe.name}-{stage}",
        "dir": str(folder),
        "config": recipe.model_dump(mode="json"),
    }
    try:
        asked = os.environ.get("WANDB_MODE")
        mode: Any = asked or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        run = wandb.init(mode=mode, id=f"{recipe.name}-{stage}-{_wandb_id(folder)}", resume="allow", **options)
    except wandb.errors.Error as error:
        logger.warning("W&B could not start (%s). This run is recorded offline.", str(error).splitlines()[0])
        run = wandb.init(mode="offline", **options)
    if not run.offline and not run.disabled:
        print(f"W&B {stage}: {run.url}")
    run.define_metric("global_step")
    run.define_metric("*", step_metric="global_step")
    return run


class TrackingCallback(TrainerCallback):
    """Sends what a Trainer logs to the tracker.

    Args:
        offset: Optimizer steps of the stage's earlier Trainers, so that one axis runs through the curriculum.
        extra: Values added to every row, such as the curriculum stage.
    """

    def __init__(self, tracker: Tracker, offset: int = 0, extra: dict[str, Any] | None = None) -> None:
        self.tracker, self.offset, self.extra = tracker, offset, extra or {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tracker.forget_after(self.offset + state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self.tracker.log({**self.extra, **logs}, self.offset + state.global_step)
