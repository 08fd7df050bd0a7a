"""Trackers beside W&B: TensorBoard, MLflow and Trackio, as Accelerate speaks to them.

What they fail to record is in metrics.jsonl all the same, so a failure is said once and never ends a run.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker
from accelerate.utils import is_mlflow_available, is_tensorboard_available, is_trackio_available

from ...data.errors import UserError, first_line
from ..recipe.schema import Recipe
from .wandb_view import config, project, run_name, tags

logger = logging.getLogger(__name__)

AVAILABLE = {"tensorboard": is_tensorboard_available, "mlflow": is_mlflow_available, "trackio": is_trackio_available}
NO_NAME = re.compile(r"[^/\w.\- :]")
# MLflow waits 120 s for an answer and asks 8 times by its own defaults.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class MissingTracker(UserError):
    """A tracker whose package is not installed."""


def asked_for(recipe: Recipe) -> list[str]:
    """The trackers of `tracking.report_to` beside W&B."""
    return [name for name in recipe.tracking.report_to if name in AVAILABLE]


def check_trackers(recipe: Recipe) -> None:
    """Checks that the packages of the trackers are there.

    Raises:
        MissingTracker: One is not.
    """
    for name in asked_for(recipe):
        if not AVAILABLE[name]():
            raise MissingTracker(
                f"tracking.report_to names {name}, which is not installed. Install it (`pip install {name}`), or leave "
                "it out."
            )


class OtherTrackers:
    """The trackers of one stage beside W&B. One that fails is left out until the stage ends."""

    def __init__(self, recipe: Recipe, folder: Path, stage: str) -> None:
        self.open: dict[str, GeneralTracker] = {}
        for name in asked_for(recipe):
            self._try(name, lambda name=name: self._start(name, recipe, folder, stage))  # type: ignore[misc]

    def _start(self, name: str, recipe: Recipe, folder: Path, stage: str) -> None:
        tracker: GeneralTracker
        if name == "tensorboard":
            tracker = TensorBoardTracker(stage, folder / "tensorboard")
        elif name == "trackio":
            tracker = TrackioTracker(project(recipe), name=run_name(recipe, stage), resume="allow")
        else:
            for variable, value in PATIENCE.items():
                os.environ.setdefault(variable, value)
            named = {"recipe": recipe.name, "stage": stage, "tags": ", ".join(tags(recipe))}
            tracker = MLflowTracker(project(recipe), run_name=run_name(recipe, stage), tags=named)
        tracker.start()
        self.open[name] = tracker
        if name != "tensorboard":  # which shows a config as a run of its own
            tracker.store_init_configuration(flat(config(recipe, stage)))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Records the finite numbers among metrics."""
        numbers = {
            key: value for key, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        for name, tracker in list(self.open.items()):
            # pass@4 and the like have characters that MLflow refuses in names.
            named = {NO_NAME.sub("_", key): value for key, value in numbers.items()} if name == "mlflow" else numbers
            self._try(name, lambda tracker=tracker, named=named: tracker.log(named, step))  # type: ignore[misc]

    def finish(self) -> None:
        """Ends the runs."""
        for name, tracker in list(self.open.items()):
            self._try(name, tracker.finish)
        self.open = {}

    def _try(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # each service has errors of its own
            self.open.pop(name, None)
            logger.warning("%s could not record (%s). This stage goes on without it.", name, first_line(error))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, each a number, a truth value or a string."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, bool | int | float) else str(value)
    return found
