"""Which problems a run was trained on, so that a run with changed data can warn of it."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate import PartialState

from ..system.files import write_whole
from .plan import STAGES

logger = logging.getLogger(__name__)

DATA = "training_data"


def keep_training_data(folder: Path, found: str) -> None:
    """Records the training problems of a run. Once a stage is finished it calls `warn_of_other_data` instead.

    Args:
        found: `record` of the problems.
    """
    if PartialState().is_main_process:
        if any(final.is_dir() for name in STAGES for final in (folder / name).glob("**/final")):
            warn_of_other_data(folder, found)
        else:
            write_whole(folder / DATA, found)


def warn_of_other_data(folder: Path, found: str) -> None:
    """Warns if finished stages were trained on other problems: those held out now may have been trained on then."""
    file = folder / DATA
    then = file.read_text(encoding="utf-8") if file.is_file() else "problems that nobody recorded (an earlier version)"
    if then != found:
        logger.warning(
            "The run in %s was trained on %s, and its data give %s now. Problems that are held out now may have been "
            "trained on then, and figures over them promise too much. Restore the data, or begin under another name.",
            folder, then, found,
        )  # fmt: skip
