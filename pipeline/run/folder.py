"""The run folder: one launch at a time holds it, and only the recipe that it was begun with goes on in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...data.errors import UserError
from ..recipe.load import RecipeError, load_recipe
from ..recipe.schema import Recipe
from ..system.files import write_whole
from ..system.integrity import fault_in
from ..system.lock import hold, job_file_of
from ..system.processes import on_main
from ..train.curriculum.reports import read_report
from .plan import STAGES
from .recipe_changes import differences, named

LOCK = "running.lock"
# Files that a launch leaves if it ended before it wrote recipe.yaml.
LEFT = {LOCK, job_file_of(Path(LOCK)).name, "error.log", "recipe.yaml.partial"}


class RunError(UserError):
    """A run folder that cannot be used as asked."""


@contextmanager
def open_folder(recipe: Recipe, resume: bool) -> Iterator[None]:
    """Makes the run folder, or checks that it holds a run of this recipe, and locks it for this launch.

    Raises:
        LockedError: Another launch holds it.
        RunError: It holds a run of another recipe, a run of this recipe without `resume`, or damaged files.
    """
    folder, held = recipe.folder, ExitStack()

    def begin() -> None:
        _check_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(hold(folder / LOCK, str(folder), "choose another name (name=...)"))
        check_folder(recipe, resume)
        _prepare(recipe)

    with held:
        on_main(begin)
        yield


def check_folder(recipe: Recipe, resume: bool) -> None:
    """Checks that the run folder is empty, or holds a run that this launch may go on with. Changes nothing.

    A run that ended before its first stage, for example on bad data, holds no weights: it is begun anew.

    Raises:
        UserError: The folder holds a run of another recipe, a run of this recipe without `resume`, or damaged files.
    """
    check_same_recipe(recipe)
    if not is_begun(recipe.folder):
        return
    if not resume:
        raise RunError(
            f"{recipe.folder} already holds a run of this recipe. Nothing was changed. Add --resume to go on with it, "
            "or choose another name (name=...)."
        )
    _check_finished(recipe.folder)


def check_same_recipe(recipe: Recipe) -> None:
    """Checks that the run folder is empty, or holds a run of this recipe.

    Raises:
        RunError: It holds something else.
    """
    folder = recipe.folder
    _check_ours(folder)
    changed = differences(_held_recipe(folder), recipe) if is_begun(folder) else []
    if changed:
        raise RunError(
            f"{folder} already holds the run of another recipe: it differs in {named(changed)}. "
            "Nothing was changed. Choose another name (name=...), or move the folder away."
        )


def is_begun(folder: Path) -> bool:
    """Whether a stage has begun to train."""
    return any((folder / name).is_dir() for name in STAGES)


def _check_ours(folder: Path) -> None:
    """Checks that a folder that exists is a run folder."""
    if (folder / "recipe.yaml").is_file() or not folder.is_dir():
        return
    if any(path.name not in LEFT for path in folder.iterdir()):
        raise RunError(
            f"{folder} exists and holds no run of ours: it has no recipe.yaml. Choose another name (name=...)."
        )


def _held_recipe(folder: Path) -> Recipe:
    """The recipe that a run was begun with."""
    try:
        return load_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        raise RunError(
            f"The recipe that the run in {folder} was begun by cannot be read: {error} Nothing was changed. Write it "
            "there anew, with the keys that were given on the command line, or choose another name (name=...)."
        ) from error


def _check_finished(folder: Path) -> None:
    """Checks the files of finished stages.

    Raises:
        UserError: One is damaged, as by a disk fault.
    """
    for final in sorted((*folder.glob("*/final"), *folder.glob("*/*/final"))):
        fault = fault_in(final) if final.is_dir() and not final.is_symlink() else None
        if fault is not None:
            raise RunError(
                f"{final} was finished and is whole no more ({fault}). Nothing was changed. Put a copy in its place, "
                "or delete it, and --resume trains it anew; the other stages are kept."
            )
    for report in sorted(folder.glob("*/report.json")):
        read_report(report)


def _prepare(recipe: Recipe) -> None:
    """Writes recipe.yaml, and removes what the recipe of this launch makes out of date."""
    folder, file = recipe.folder, recipe.folder / "recipe.yaml"
    if not is_begun(folder):
        shutil.rmtree(folder / "base", ignore_errors=True)
    elif load_recipe(file).evaluate != recipe.evaluate:
        (folder / "results.json").unlink(missing_ok=True)  # measured in another way than asked for now
    text = recipe.to_yaml()
    if not file.is_file() or file.read_bytes() != text.encode("utf-8"):
        write_whole(file, text)
