"""The stages of another run that a run begins with, as `resume_from: FOLDER@STAGE` asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..evaluate.measure import read_results, write_results
from ..recipe.load import load_recipe
from ..recipe.schema import Recipe
from ..system.files import check_room, write_whole
from ..system.integrity import fault_in, read_seconds
from ..train.hand_over import is_done
from .folder import RunError, is_begun
from .recipe_changes import differences, named
from .training_data import DATA

# The sections that train each stage, besides those of the stages before it.
SECTIONS = {
    "base": {"seed", "plugins", "model", "data"},
    "sft": {"sft"},
    "curriculum": {"latent", "curriculum"},
    "rl": {"rl"},
}


def begin_with(recipe: Recipe) -> None:
    """Copies the stages that `recipe.resume_from` names, and those before them, into a run folder without stages.

    Does so again where that was cut short.

    Raises:
        UserError: See `check_source`; or the disk has no room for them.
    """
    if recipe.resume_from is None or (is_begun(recipe.folder) and not _partial(recipe).is_dir()):
        return
    source, stage = check_source(recipe)
    stages = [name for name in _up_to(stage) if is_done(source.folder / name)]
    files = [path for name in stages for path in (source.folder / name).rglob("*") if path.is_file()]
    check_room(recipe.folder, sum(path.stat().st_size for path in files))
    copy_stages(source, recipe, stages)
    print(f"Begun with {', '.join(stages)} of {source.folder}")


def check_source(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe of the run that `resume_from` names, with the folder it lies in now, and the stage.

    Raises:
        RunError: There is no such run, its stage is not finished or damaged, or the recipe would train the stage, or
            one before it, in another way.
    """
    assert recipe.resume_from is not None
    place, _, stage = recipe.resume_from.rpartition("@")
    folder, given = Path(place), f"resume_from={recipe.resume_from}"
    if not (folder / "recipe.yaml").is_file():
        raise RunError(f"{given}: {folder} is no run folder: it has no recipe.yaml. Name one, as in FOLDER@{stage}.")
    if folder.resolve() == recipe.folder.resolve():
        raise RunError(f"{given} is this run itself. Remove the key; --resume goes on with a run.")
    finished = [name for name in SECTIONS if name != "base" and is_done(folder / name)]
    if stage not in finished:
        has = f"finished are {', '.join(finished)}" if finished else "no stage of it is finished"
        raise RunError(f"{given}: the run has no finished stage {stage!r}; {has}.")
    if getattr(recipe, stage) is None:
        raise RunError(f"{given}: the recipe has no section {stage}. Give it that of {folder / 'recipe.yaml'}.")
    for name in finished[: finished.index(stage) + 1]:
        fault = fault_in(folder / name / "final")
        if fault is not None:
            raise RunError(f"{given}: {folder / name / 'final'} is damaged ({fault}).")
    source = load_recipe(folder / "recipe.yaml")
    changed = trained_apart(source, recipe, stage)
    if changed:
        raise RunError(
            f"{given}: this recipe would train its stages in another way: {named(changed)}. Change "
            f"the recipe, or begin from the weights alone: model.name_or_path={folder / stage / 'final'}, without the "
            "sections of the stages that made them."
        )
    return source.model_copy(update={"output_dir": str(folder.parent), "name": folder.name}), stage


def trained_apart(then: Recipe, now: Recipe, stage: str) -> list[str]:
    """What makes two recipes train a stage, or one before it, in different ways: `key: 8 then, 4 now`."""
    sections = set().union(*(SECTIONS[name] for name in _up_to(stage)))
    lines = [line for line in differences(then, now) if line.partition(":")[0].partition(".")[0] in sections]
    more: list[tuple[str, object, object]] = [("data.keep_overlap", then.data.keep_overlap, now.data.keep_overlap)]
    if stage != "base":
        more.append(("held-out problems, which training leaves out", then.held_out, now.held_out))
    if stage in ("curriculum", "rl"):  # they judge the promotions
        more.append(("evaluate.scorer", then.evaluate.scorer, now.evaluate.scorer))
        more.append(("evaluate.max_new_tokens", then.evaluate.max_new_tokens, now.evaluate.max_new_tokens))
    return lines + [f"{key}: {one} then, {other} now" for key, one, other in more if one != other]


def _up_to(stage: str) -> list[str]:
    """A stage and those before it."""
    order = list(SECTIONS)
    return order[: order.index(stage) + 1]


def copy_stages(source: Recipe, recipe: Recipe, stages: Sequence[str]) -> None:
    """Copies finished stages of a run into the folder of a recipe, with what is known of them.

    A copy that was cut short leaves a folder whose name ends in .partial.
    """
    folder, partial = source.folder, _partial(recipe)
    shutil.rmtree(partial, ignore_errors=True)
    for name in stages:
        shutil.rmtree(recipe.folder / name, ignore_errors=True)  # of a copy that was cut short
        shutil.copytree(folder / name, partial / name, symlinks=True)
    seconds = read_seconds(folder)
    write_whole(partial / "seconds.json", json.dumps({name: seconds[name] for name in stages if name in seconds}))
    if (folder / DATA).is_file():
        shutil.copyfile(folder / DATA, partial / DATA)
    if recipe.evaluate == source.evaluate and (folder / "results.json").is_file():
        rows = read_results(folder / "results.json")
        write_results(partial / "results.json", [row for row in rows if row.stage in stages])
    write_whole(partial / "recipe.yaml", recipe.to_yaml())
    if not recipe.folder.exists():
        partial.rename(recipe.folder)
        return
    for path in partial.iterdir():
        path.replace(recipe.folder / path.name)
    partial.rmdir()


def _partial(recipe: Recipe) -> Path:
    return recipe.folder.with_name(f"{recipe.folder.name}.partial")
