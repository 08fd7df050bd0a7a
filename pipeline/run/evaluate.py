"""`neuralese eval`: measures the finished stages of a run, or one checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from ..evaluate.measure import Measurement, write_results
from ..evaluate.report.page import write_report
from ..evaluate.table import print_results
from ..model.answer_limits import check_checkpoints_fit
from ..model.from_text import check_some_can_be_read
from ..problems.load import load_evaluation
from ..system.files import writable
from ..system.integrity import read_seconds
from ..system.lock import hold_for_all
from ..system.processes import join_processes
from .finished_stages import find_checkpoints
from .results import evaluate_checkpoint

logger = logging.getLogger(__name__)


def evaluate_folder(folder: Path, overrides: list[str], output: Path | None, recipe_path: Path | None) -> None:
    """Measures all finished stages of a run folder, or one checkpoint, and prints and writes the results.

    Raises:
        RunError: No run or checkpoint there, or no recipe that says what to measure on.
        LockedError: Another evaluation writes the same results.
    """
    state = join_processes()
    recipe, checkpoints = find_checkpoints(folder, overrides, recipe_path)
    target = writable(output or folder / "eval.json")
    problems = load_evaluation(recipe)
    check_checkpoints_fit(recipe, checkpoints, problems)
    if recipe.evaluate.thought == "as_text":
        check_some_can_be_read(checkpoints, recipe.model.trust_remote_code)
    rows: list[Measurement] = []
    with hold_for_all(target.with_name(f"{target.stem}.lock"), str(target), "name another file with --output"):
        for name, checkpoint in checkpoints.items():
            rows += evaluate_checkpoint(recipe, checkpoint, name, problems, target.with_name(f"{target.stem}-samples"))
    if state.is_main_process:
        write_results(target, rows)
        seconds = read_seconds(folder) if (folder / "recipe.yaml").is_file() else {}
        seconds.pop("evaluate", None)  # how long the run's own evaluation took
        print_results(rows, seconds)
        print(f"Results      {target}")
        print(f"Samples      {target.with_name(f'{target.stem}-samples')}")
        if target == folder / "eval.json" and (folder / "results.json").is_file():
            print(f"Report       {write_report(folder)}")
