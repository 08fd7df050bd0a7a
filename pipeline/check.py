"""`neuralese check` and `neuralese eval`: look at a recipe without training it, measure checkpoints after training."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from ..data.problem import Problem
from .evaluate.evaluate import Measurement, write_results
from .evaluate.table import print_results
from .recipe import Recipe, load_recipe
from .run import RunError, evaluate_checkpoint, join_processes, load_source, plan, read_seconds
from .train.common import is_done
from .train.curriculum import curriculum_stages, step_factor
from .validate import check_recipe


def print_plan(path: str, recipe: Recipe) -> None:
    """Prints the resolved recipe and the planned stages, steps and latents."""
    check_recipe(recipe)
    console = Console(width=None)
    console.rule(escape(path))
    console.print(Syntax(recipe.to_yaml(), "yaml", background_color="default"))
    table = Table(title="Planned stages")
    for heading in ("stage", "steps", "per device batch", "text steps replaced", "latents"):
        table.add_column(heading)
    problems = _problems_or_none(recipe, console)
    for stage in plan(recipe):
        section = getattr(recipe, stage.name, None) or recipe.curriculum
        assert section is not None
        steps = section.trainer.get("max_steps")
        epochs = section.trainer.get("num_train_epochs", 3)
        length = f"{steps}" if steps else f"{epochs} epochs"
        # Hub data is not at hand; longer problems than max_stage are what the last, further stage is for.
        most = max(len(p.steps) for p in problems) if problems else (recipe.latent.max_stage or 0) + 1
        batch = str(section.trainer.get("per_device_train_batch_size", 8))
        if stage.name in ("sft", "rl"):
            table.add_row(stage.name, length, batch, "none" if stage.name == "sft" else "all", "")
            continue
        control = stage.name if stage.name != "curriculum" else None
        if steps:
            length = str(steps * step_factor(recipe, most, control))
        for part in curriculum_stages(recipe, most, control):
            replaced = "all" if part.removed_steps is None else str(part.removed_steps)
            table.add_row(f"{stage.name} {part.index}", f"at most {length}", batch, replaced, str(part.num_latents))
    console.print(table)
    console.print(f"Run folder: {recipe.folder}")


def _problems_or_none(recipe: Recipe, console: Console) -> list[Problem] | None:
    """A local or generated training set; None for a hub dataset, which checking must not download."""
    source = recipe.data.train
    if source.dataset is not None:
        console.print(
            f"Data: {source.dataset} from the hub, not downloaded by check: the stages assume problems longer than "
            "max_stage."
        )
        return None
    small = source.model_copy(update={"size": min(source.size, 1000)}) if source.size else source
    problems = load_source(small, "train", recipe.seed)
    console.print(f"Data: {source.size or len(problems)} training problems. First: {problems[0].question!r}")
    return problems


def evaluate_folder(folder: Path, overrides: list[str], output: Path | None, recipe_path: Path | None) -> None:
    """Measures all finished stages of a run folder, or one checkpoint, and prints and writes the results.

    Raises:
        RunError: No run or checkpoint there, or no recipe that says what to measure on.
    """
    state = join_processes()
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}. Name a run folder or a checkpoint.")
    is_run = (folder / "recipe.yaml").is_file()
    found = recipe_path or next(
        (
            parent / "recipe.yaml"
            for parent in (folder, *folder.resolve().parents[:3])  # run/stage/final, or run/stage/part/final
            if (parent / "recipe.yaml").is_file()
        ),
        None,
    )
    if found is None:
        raise RunError(f"{folder} lies in no run folder. Give the recipe that says what to measure on with --recipe.")
    recipe = load_recipe(found, overrides)
    if is_run:
        checkpoints = {s.name: folder / s.name / "final" for s in plan(recipe) if is_done(folder / s.name)}
    elif (folder / "config.json").is_file():
        checkpoints = {_stage_name(folder): folder}
    else:
        checkpoints = {}
    if not checkpoints:
        raise RunError(f"{folder} holds no finished stage and no checkpoint.")
    target = output or folder / "eval.json"
    if not target.parent.is_dir():
        raise RunError(f"There is no folder {target.parent} to write the results to.")
    problems = load_source(recipe.data.eval, "eval", recipe.seed)[: recipe.evaluate.problems]
    rows: list[Measurement] = []
    for name, checkpoint in checkpoints.items():
        rows += evaluate_checkpoint(recipe, checkpoint, name, problems)
    if state.is_main_process:
        write_results(target, rows)
        seconds = read_seconds(folder) if is_run else {}
        seconds.pop("evaluate", None)  # that of the run's own evaluation, not of this one
        print_results(rows, seconds)
        print(f"Results      {target}")


def _stage_name(checkpoint: Path) -> str:
    """The training stage a checkpoint comes from: the name of its stage folder, or what its latent section says."""
    if checkpoint.resolve().name == "final":
        return checkpoint.parent.name
    section = json.loads((checkpoint / "config.json").read_text()).get("latent") or {}
    return "curriculum" if section.get("num_latents") else "sft"
