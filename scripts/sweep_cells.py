"""The state of the cells of a sweep: their rows of results, what was started, and what runs now."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pydantic import Field, ValidationError
from sweep_file import PLACE, Cell, Strict, SweepError

from neuralese.pipeline.cli.errors import STOPPED
from neuralese.pipeline.recipe.load import Recipe, RecipeError, parse_recipe
from neuralese.pipeline.system.files import write_whole

# Recipe keys that change no result.
WITHOUT_EFFECT = {"name", "output_dir", "tracking"}


class Row(Strict):
    """The results of a cell, as kept in docs/results.

    Attributes:
        commit: Commit of each start of the run; "+" marks changes that were not committed.
        resumed: The run was started more than once. Its seconds lack those of a killed start.
        stopped: The curriculum stopped below its threshold.
        recipe: The resolved recipe, without the keys that change no result.
        results: Rows of results.json.
        reports: Each `*/final/report.json` of the run folder, by its path.
        held_out: Measurements on held-out problems during RL: step, `held_out/...` and `thought/...`.
    """

    command: str
    commit: str
    threads: int
    resumed: bool
    stopped: bool
    seconds: dict[str, float]
    recipe: dict[str, Any]
    results: list[dict[str, Any]]
    reports: dict[str, dict[str, Any]]
    held_out: list[dict[str, Any]] = Field(default_factory=list)


def result_keys(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe without the keys that change no result."""
    return recipe.model_dump(mode="json", exclude=WITHOUT_EFFECT)


def read_row(cell: Cell) -> Row | None:
    """The row of a cell, or None.

    Raises:
        SweepError: The file holds no row.
    """
    if not cell.row_file.is_file():
        return None
    try:
        return Row.model_validate_json(cell.row_file.read_text(encoding="utf-8"))
    except ValidationError:
        raise SweepError(f"{cell.row_file} holds no row of results. Delete it, and the cell is run again.") from None


def write_row(cell: Cell, row: Row) -> None:
    """Writes a row, whole or not at all, with a line for each measurement, section and report."""
    cell.row_file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(key)}: {_lines(value)}" for key, value in row.model_dump().items()]
    write_whole(cell.row_file, "{\n" + ",\n".join(lines) + "\n}\n")


def _lines(value: Any) -> str:
    if isinstance(value, list):
        items = [json.dumps(item) for item in value]
        return "[\n  " + ",\n  ".join(items) + "\n ]"
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
        return "{\n  " + ",\n  ".join(items) + "\n }"
    return json.dumps(value)


def changed_keys(row: Row, recipe: Recipe) -> list[str]:
    """Top-level recipe keys in which a row differs from the present recipe.

    A key that the row lacks has its default value, so a new key alone makes no row stale.
    """
    try:
        held = result_keys(parse_recipe({**row.recipe, "name": recipe.name}, "row"))
    except RecipeError:  # written when a recipe had other keys
        held = row.recipe
    now = result_keys(recipe)
    return [key for key in {**now, **held} if now.get(key) != held.get(key)]


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Reports of a run folder's stages by path, such as `curriculum/level-1`. Links to a stage are left out."""
    files = [file for file in folder.glob("**/final/report.json") if not file.parent.is_symlink()]
    found = {str(file.parent.parent.relative_to(folder)): json.loads(file.read_text()) for file in files}
    return {path: found[path] for path in sorted(found, key=_by_number)}


def read_held_out(folder: Path) -> list[dict[str, Any]]:
    """Measurements on held-out problems during the stage rl of a run folder, from its metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name == "step" or name.startswith(("held_out/", "thought/"))}
        for row in rows
        if row["stage"] == "rl" and "held_out/accuracy" in row
    ]


def _by_number(path: str) -> list[str | int]:
    """Sorts level-10 after level-2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def read_starts(cell: Cell) -> dict[str, Any]:
    """Commits of all starts of a run and of the stages it took over, and the exit code of the last start.

    The code is None while that start runs, or when it was killed.
    """
    file = cell.beside(".json")
    return json.loads(file.read_text()) if file.is_file() else {"commits": [], "exit": None}


def write_starts(cell: Cell, starts: Mapping[str, Any]) -> None:
    write_whole(cell.beside(".json"), json.dumps(starts))


def try_lock(cell: Cell) -> IO[str] | None:
    """Locks a cell. None: another process holds it, be it a sweep or a run whose sweep was killed."""
    cell.beside(".lock").parent.mkdir(parents=True, exist_ok=True)
    file = cell.beside(".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def state_of(cell: Cell) -> tuple[str, str]:
    """The state of a cell (done, stale, running, failed, half-done or missing), and details for the user."""
    row = read_row(cell)
    if cell.beside(".lock").is_file():
        lock = try_lock(cell)
        if lock is None:
            return "running", f"log {cell.beside('.log')}"
        lock.close()
    if row is not None:
        changed = changed_keys(row, cell.recipe)
        if changed:
            return "stale", f"the recipe differs in {', '.join(changed)}"
        return "done", f"commit {row.commit}" + (", stopped below its threshold" if row.stopped else "")
    if read_starts(cell)["exit"] not in (None, 0, STOPPED):
        return "failed", f"log {cell.beside('.log')}"
    return ("half-done", f"in {cell.recipe.folder}") if cell.recipe.folder.is_dir() else ("missing", "")


def holds_other_run(cell: Cell) -> bool:
    """Whether the folder of a cell holds a run that `--resume` would refuse. Only what is measured may differ."""
    from neuralese.pipeline.run.folder import RunError, check_same_recipe

    if not cell.recipe.folder.is_dir():
        return False
    try:
        check_same_recipe(cell.recipe)
    except RunError:
        return True
    return False


def current_commit() -> str:
    """Short hash of the checkout, with "+" where files other than results have changed since."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", ".", f":(exclude){PLACE}"], capture_output=True, check=True
    )
    return head.stdout.strip() + ("+" if status.stdout else "")
