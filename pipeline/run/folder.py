"""The run folder: held by one launch at a time, and gone on with only by the recipe that it was begun by."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ...data.errors import UserError
from ..recipe.load import RecipeError, load_recipe
from ..recipe.schema import Recipe
from ..system.files import write_whole
from ..system.lock import hold
from ..system.processes import on_main
from ..system.whole import fault_in
from ..train.curriculum.arms import ARMS
from ..train.curriculum.reports import read_report

logger = logging.getLogger(__name__)

LOCK = "running.lock"
DATA = "training_data"
STAGES = ("sft", "curriculum", "rl", *ARMS)
# What a start leaves that ended before it wrote recipe.yaml.
LEFT = {LOCK, "error.log", "recipe.yaml.partial"}
# What is measured may change between runs, and where; what was trained may not.
FREE = {"name", "output_dir", "evaluate", "controls", "tracking"}
SHOWN = 5  # keys that a message names
UNSET = object()


class RunError(UserError):
    """A run folder that cannot be used as asked."""


@contextmanager
def open_folder(recipe: Recipe, resume: bool) -> Iterator[None]:
    """Makes the run folder, or checks that it holds this recipe's run, and holds it for this launch.

    Raises:
        LockedError: Another launch holds it.
        RunError: It holds another recipe's run, this one's without `resume`, or files that are not whole.
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
    """Makes sure that a folder holds nothing, or a run that may be gone on with. Changes nothing.

    A run that ended before its first stage, as bad data end it, left nothing to protect: it is begun anew.

    Raises:
        UserError: It holds another recipe's run, this one's without `resume`, or files that are not whole.
    """
    check_same_recipe(recipe)
    if not _is_begun(recipe.folder):
        return
    if not resume:
        raise RunError(
            f"{recipe.folder} already holds a run of this recipe. Nothing was changed. Add --resume to go on with it, "
            "or choose another name (name=...)."
        )
    _check_finished(recipe.folder)


def check_same_recipe(recipe: Recipe) -> None:
    """Makes sure that a folder holds nothing, or a run of this recipe.

    Raises:
        RunError: It holds something else.
    """
    folder = recipe.folder
    _check_ours(folder)
    changed = differences(_held_recipe(folder), recipe) if _is_begun(folder) else []
    if changed:
        more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise RunError(
            f"{folder} already holds the run of another recipe: it differs in {'; '.join(changed[:SHOWN])}{more}. "
            "Nothing was changed. Choose another name (name=...), or move the folder away."
        )


def _is_begun(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in STAGES)


def _check_ours(folder: Path) -> None:
    if (folder / "recipe.yaml").is_file() or not folder.is_dir():
        return
    if any(path.name not in LEFT for path in folder.iterdir()):
        raise RunError(
            f"{folder} exists and holds no run of ours: it has no recipe.yaml. Choose another name (name=...)."
        )


def _held_recipe(folder: Path) -> Recipe:
    """The recipe that a run was begun by."""
    try:
        return load_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        raise RunError(
            f"The recipe that the run in {folder} was begun by cannot be read: {error} Nothing was changed. Write it "
            "there anew, with the keys that were given on the command line, or choose another name (name=...)."
        ) from error


def differences(held: Recipe, asked: Recipe) -> list[str]:
    """`dotted.key: 8 then, 4 now` of every key that is trained by and has changed."""
    then, now = _as_trained(held), _as_trained(asked)
    return [line for key in now for line in _differences(then[key], now[key], key)]


def _differences(then: Any, now: Any, key: str) -> list[str]:
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        then, now = dict(enumerate(then)), dict(enumerate(now))
    if isinstance(then, dict) and isinstance(now, dict):
        pairs = {name: (then.get(name, UNSET), now.get(name, UNSET)) for name in {**then, **now}}
        return [line for name, pair in pairs.items() for line in _differences(*pair, f"{key}.{name}")]
    return [] if then == now else [f"{key}: {_shown(then)} then, {_shown(now)} now"]


def _shown(value: Any) -> str:
    text = "unset" if value is UNSET else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_trained(recipe: Recipe) -> dict[str, Any]:
    """A recipe without what does not change what is trained, and without how long rewards are waited for: a run that a
    slow one ended may go on with more patience."""
    values = recipe.model_dump(mode="json", exclude=FREE)
    for reward in (values["rl"] or {}).get("rewards", []):
        for key in ("timeout", "retries", "on_error"):
            del reward[key]
    return values


def _check_finished(folder: Path) -> None:
    """Makes sure that what finished stages left is whole.

    Raises:
        UserError: A disk fault has changed it.
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


def keep_training_data(folder: Path, found: str) -> None:
    """Records which problems a run is trained on, until a stage is finished; from then on `warn_of_other_data`.

    Args:
        found: `fingerprint` of the training problems.
    """
    if PartialState().is_main_process:
        if any(final.is_dir() for name in STAGES for final in (folder / name).glob("**/final")):
            warn_of_other_data(folder, found)
        else:
            write_whole(folder / DATA, found)


def warn_of_other_data(folder: Path, found: str) -> None:
    """Says where finished stages were trained on other problems: those that are held out now were trained on then."""
    file = folder / DATA
    then = file.read_text(encoding="utf-8") if file.is_file() else "problems that nobody recorded (an earlier version)"
    if then != found:
        logger.warning(
            "The run in %s was trained on %s, and its data give %s now. Problems that are held out now may have been "
            "trained on then, and figures over them promise too much. Restore the data, or begin under another name.",
            folder, then, found,
        )  # fmt: skip


def _prepare(recipe: Recipe) -> None:
    folder, file = recipe.folder, recipe.folder / "recipe.yaml"
    if not _is_begun(folder):
        shutil.rmtree(folder / "base", ignore_errors=True)
    elif load_recipe(file).evaluate != recipe.evaluate:
        (folder / "results.json").unlink(missing_ok=True)  # measured in another way than asked for now
    text = recipe.to_yaml()
    if not file.is_file() or file.read_bytes() != text.encode("utf-8"):
        write_whole(file, text)
