"""Records metrics during a run: always in metrics.jsonl, by default also in Weights & Biases (W&B), and elsewhere."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from ..recipe.schema import Recipe
from .metrics_file import mend, read_rows, write_rows
from .other_trackers import OtherTrackers
from .wandb_media import WandbMedia
from .wandb_run import finish_wandb, is_wanted, start_wandb


class Tracker:
    """Records metrics on the main process. Does nothing on the others.

    In W&B a recipe is a group and a stage is a run. Without a W&B key runs are recorded offline, in the run folder.
    """

    def __init__(self, recipe: Recipe, folder: Path, is_main: bool) -> None:
        self.recipe, self.folder, self.is_main = recipe, folder, is_main
        self.stage = ""
        self.wandb_run: Any = None
        self.media: WandbMedia | None = None
        self.others: OtherTrackers | None = None
        self.is_offline = False
        if is_main:
            mend(folder / "metrics.jsonl")

    def start(self, stage: str) -> None:
        """Begins a stage: its W&B run is started, or continued on resume, and so are those of other trackers."""
        self.finish()
        self.stage = stage
        if not self.is_main:
            return
        self.others = OtherTrackers(self.recipe, self.folder, stage)
        if is_wanted(self.recipe):
            self.wandb_run = start_wandb(self.recipe, self.folder, stage, self.is_offline)
            self.is_offline = self.wandb_run.offline
            self.media = WandbMedia(self.wandb_run)

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Records metrics at an optimizer step of the current stage, counted from the stage's start."""
        if not self.is_main:
            return
        # JSON has no NaN or infinity: they become null.
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        row = {"stage": self.stage, "step": step, "time": round(time.time(), 3), **clean}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.wandb_run is not None:
            self.wandb_run.log({**metrics, "global_step": step})
        if self.others is not None:
            self.others.log(metrics, step)

    def forget_after(self, step: int) -> None:
        """Removes rows of the current stage after an optimizer step from metrics.jsonl: a resume writes them again."""
        file = self.folder / "metrics.jsonl"
        if not self.is_main or not file.is_file():
            return
        rows = read_rows(file)
        kept = [row for row in rows if row["stage"] != self.stage or row["step"] <= step]
        if len(kept) < len(rows):
            write_rows(file, kept)

    @property
    def sends_media(self) -> bool:
        """Whether tables and the like are recorded, so that making them is worth its time."""
        return self.media is not None and not self.media.gave_up

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int, grows: bool = False) -> None:
        """Records a table in W&B only, at an optimizer step of the current stage.

        Args:
            grows: The rows are added to those of this name that the stage has recorded.
        """
        if self.media is not None:
            self.media.table(name, columns, rows, step, grows)

    def log_histograms(self, numbers: Mapping[str, Tensor], step: int) -> None:
        """Records how numbers are distributed, in W&B only. Those that are not finite are left out."""
        if self.media is not None:
            self.media.histograms(numbers, step)

    def log_images(self, images: Mapping[str, Path], step: int) -> None:
        """Records image files, by name, in W&B only, at an optimizer step of the current stage."""
        if self.media is not None:
            self.media.images(images, step)

    def log_artifact(self, name: str, kind: str, paths: Sequence[Path], made_of: str | None = None) -> None:
        """Records files, or the files of folders, as a versioned artifact in W&B only.

        Args:
            name: Without the recipe and the seed, which come before it.
            made_of: Name of the artifact that these files were made of, if it is recorded too. Offline runs cannot
                name it to the server; it stands in the metadata.
        """
        if self.media is not None:
            own = f"{self.recipe.name}-seed{self.recipe.seed}"
            used = f"{own}-{made_of}" if made_of is not None and not self.is_offline else None
            self.media.artifact(f"{own}-{name}", kind, paths, {"stage": self.stage, "made_of": made_of}, used)

    def alert(self, title: str, text: str) -> None:
        """Sends an alert in W&B only: by mail or chat, as the user has chosen there."""
        if self.wandb_run is not None:
            self.wandb_run.alert(title=title, text=text, level="WARN")

    def finish(self, exit_code: int = 0) -> None:
        """Ends the stage everywhere; its W&B run as failed if exit_code is not 0."""
        if self.others is not None:
            self.others.finish()
            self.others = None
        if self.wandb_run is not None:
            in_time = finish_wandb(self.wandb_run, exit_code)
            self.is_offline |= not in_time or not self.sends_media
            self.wandb_run = self.media = None


class TrackingCallback(TrainerCallback):
    """Records what a Trainer logs.

    Args:
        offset: Optimizer steps of earlier Trainers of the stage. It makes one axis of all levels of a curriculum.
        extra: Values for every row, such as the level of the curriculum.
    """

    def __init__(self, tracker: Tracker, offset: int = 0, extra: dict[str, Any] | None = None) -> None:
        self.tracker, self.offset, self.extra = tracker, offset, extra or {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tracker.forget_after(self.offset + state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            # The summary's mean loss is wrong after a resume: steps before it count in the number, not in the sum.
            shown = {name: value for name, value in logs.items() if name != "train_loss"}
            self.tracker.log({**self.extra, **shown}, self.offset + state.global_step)
