"""Which stages of a run are finished, and where their weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..model.plugins import load_plugins
from ..recipe.load import load_recipe
from ..recipe.schema import Recipe
from ..system.activity import NOW
from ..train.curriculum.reports import stopped_summary
from ..train.hand_over import is_done
from .folder import RunError
from .plan import plan


def stopped_curriculum(recipe: Recipe) -> dict[str, Any] | None:
    """The report of a run's curriculum if it stopped below a threshold. None for any other run."""
    is_planned = any(stage.name == "curriculum" for stage in plan(recipe))
    return stopped_summary(recipe.folder / "curriculum") if is_planned else None


def trained_stages(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Final weights of each finished stage, in the order they were trained in.

    A curriculum that stopped before any level was promoted is left out: its weights are those it started from.
    """
    found = {stage.name: folder / stage.name / "final" for stage in plan(recipe) if is_done(folder / stage.name)}
    stopped = stopped_summary(folder / "curriculum")
    if stopped is not None and stopped["kept"] is None:
        found.pop("curriculum", None)
    return found


def checkpoint_of(recipe: Recipe, stage: str) -> str | Path:
    """Where the final weights of a stage are. For `base` it may be the hub id or folder that the recipe names."""
    model = recipe.model
    if stage == "base" and model.name_or_path is not None and model.gguf_file is None:
        return model.name_or_path
    return recipe.folder / stage / "final"


def find_checkpoints(folder: Path, overrides: list[str], recipe_path: Path | None) -> tuple[Recipe, dict[str, Path]]:
    """The recipe of a folder and its checkpoints by stage. The folder is a run folder or one checkpoint.

    Args:
        overrides: `dotted.key=value` over the recipe.
        recipe_path: Recipe to take. None: that of the run folder.

    Raises:
        RunError: No run or checkpoint there, or no recipe that says what to measure on.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Name a run folder or a checkpoint.")
    if recipe_path is None:
        run = run_folder(folder)
        if run is None:
            raise RunError(
                f"{folder} lies in no run folder. Give the recipe that says what to measure on with --recipe."
            )
        recipe_path = run / "recipe.yaml"
    recipe = load_recipe(recipe_path, overrides)
    load_plugins(recipe.plugins)
    if (folder / "recipe.yaml").is_file():
        checkpoints = trained_stages(recipe, folder)
    elif (folder / "config.json").is_file():
        checkpoints = {_stage_name(folder): folder}
    else:
        checkpoints = {}
    if not checkpoints:
        raise RunError(f"{folder} holds no finished stage and no checkpoint.")
    NOW.folder = run_folder(folder)
    return recipe, checkpoints


def run_folder(folder: Path) -> Path | None:
    """The run folder that `folder` is or lies in as a checkpoint. None for any other folder."""
    parents = (folder, *folder.resolve().parents[:3])  # RUN/STAGE/final, or RUN/curriculum/level-1/final
    return next((parent for parent in parents if (parent / "recipe.yaml").is_file()), None)


def _stage_name(checkpoint: Path) -> str:
    """The stage that a checkpoint comes from: the name of its folder, else told by its latent section."""
    if checkpoint.resolve().name == "final":
        return checkpoint.parent.name
    section = json.loads((checkpoint / "config.json").read_text()).get("latent") or {}
    return "curriculum" if section.get("num_latents") else "sft"
