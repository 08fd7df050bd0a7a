"""What `neuralese check` prints: the recipe with all defaults, its stages and levels, and examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from transformers import TrainingArguments

from ...data.given_changes import COLUMN, given_changes
from ..model.dtype import chosen_dtype, with_dtype
from ..model.folder import Unreachable
from ..problems.load import Problems, load_all
from ..recipe.schema import Recipe
from ..run.plan import plan
from ..run.validate import check_recipe
from ..train.curriculum.arm_plan import plan_arm
from ..train.curriculum.arms import LATENT, most_steps
from .memory_output import print_memory
from .preview import print_examples


def print_plan(path: str, recipe: Recipe, processes: int | None = None) -> None:
    """Prints the recipe with all defaults, the planned stages, and problems as each level shows them to the model.

    Args:
        processes: Also estimates the memory that each of so many processes takes.

    Raises:
        UserError: The recipe or its data cannot be used.
    """
    check_recipe(recipe)
    console = Console(width=None)
    console.rule(escape(path))
    console.print(Syntax(recipe.to_yaml(), "yaml", background_color="default"))
    recipe = _with_dtype(recipe, console)
    problems = _problems_or_none(recipe, console)
    table = Table(title="Planned stages")
    for heading in ("stage", "optimizer steps", "per device batch", "text steps replaced", "latents"):
        table.add_column(heading)
    for row in plan_rows(recipe, problems):
        table.add_row(*row)
    console.print(table)
    inputs = print_examples(recipe, problems, console) if problems is not None else None
    if processes is not None:
        if inputs is None or problems is None:
            console.print("No memory is estimated: it takes the model's config and tokenizer, and problems.")
        else:
            print_memory(inputs, problems, processes, console)
    console.print(f"Run folder: {recipe.folder}")


def plan_rows(recipe: Recipe, problems: Problems | None) -> list[list[str]]:
    """A row for each stage or level: name, optimizer steps, batch of a device, text steps replaced, latents.

    Args:
        problems: None if they are not at hand; the levels are then those that the schedule names.
    """
    rows = []
    for planned in plan(recipe):
        if planned.name in ("sft", "rl"):
            trainer = getattr(recipe, planned.name).trainer
            steps, epochs = trainer.get("max_steps"), trainer.get("num_train_epochs", 3)
            replaced = "none" if planned.name == "sft" else "all"
            rows.append([planned.name, str(steps or f"{epochs} epochs"), _batch(trainer), replaced, ""])
            continue
        section = recipe.curriculum
        assert section is not None
        longest = most_steps(problems.train) if problems else assumed_steps(recipe)
        count = (recipe.data.train.size or _count(problems)) - recipe.held_out if problems else 0
        arm = plan_arm(recipe, LATENT if planned.name == "curriculum" else planned.name, longest, count)
        if arm.arm.as_rl and recipe.rl is not None:
            latents = _latents(recipe, arm.levels[-1].num_latents)
            rows.append([f"{planned.name} 1", str(arm.limits[0]), _batch(recipe.rl.trainer), "all", latents])
            continue
        for level, limit in zip(arm.levels, arm.limits, strict=True):
            replaced = "all" if level.removed_steps is None else str(level.removed_steps)
            shown = f"at most {limit}" if limit else "by epochs of the data"
            batch = _batch(section.trainer | (section.last_level_trainer if arm.is_last(level) else {}))
            rows.append([f"{planned.name} {level.index}", shown, batch, replaced, _latents(recipe, level.num_latents)])
    return rows


def _with_dtype(recipe: Recipe, console: Console) -> Recipe:
    """The recipe with a dtype in place of `model.dtype: auto`, and says which. As it is where there is no model."""
    if recipe.model.dtype != "auto":
        return recipe
    try:
        chosen, why = chosen_dtype(recipe)
    except Unreachable as error:
        console.print(f"model.dtype: auto is not known. {escape(str(error))}", soft_wrap=True, highlight=False)
        return recipe
    console.print(escape(f"model.dtype: auto is {chosen}: {why}."), highlight=False)
    return with_dtype(recipe)


def _latents(recipe: Recipe, count: int) -> str:
    """Latents of a level; with `auto`, which needs the tokenizer, the number of blocks."""
    return f"{count} x auto" if count and recipe.latent.latents_per_step == "auto" else str(count)


def _batch(trainer: Mapping[str, Any]) -> str:
    return str(trainer.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size))


def _count(problems: Problems) -> int:
    return len(problems.train) + len(problems.held_out)


def assumed_steps(recipe: Recipe) -> int:
    """Steps of the longest problem, for a plan without the data: just enough for all levels that the schedule names."""
    assert recipe.curriculum is not None
    steps, latent = recipe.curriculum.steps_per_level, recipe.latent
    # One step more than max_latents have room for: one more level replaces the rest.
    c = latent.max_latents_per_step if latent.latents_per_step == "auto" else latent.latents_per_step
    capped = latent.max_latents // c + 1 if latent.max_latents else None
    if isinstance(steps, int):
        return capped or steps
    named = sum(step for step in steps if step != "all")
    if steps[-1] == "all":
        return named + 1
    return named if capped is None else min(named, capped)


def _problems_or_none(recipe: Recipe, console: Console) -> Problems | None:
    """The problems of a recipe, or some of them for a generated task. None for a dataset on the hub: not downloaded."""
    for source in (recipe.data.train, recipe.data.eval):
        if source.dataset is not None and not Path(source.dataset).is_dir():
            console.print(
                f"Data: {source.dataset} from the hub, not downloaded by check, so no examples are shown. "
                "How many levels there are depends on the longest problem; shown are those that the schedule names."
            )
            return None
    problems = load_all(recipe, generate=1000)
    size = recipe.data.train.size or _count(problems)
    removed = f" ({problems.removed} more are evaluation problems and left out)" if problems.removed else ""
    console.print(f"Data: {size} training problems{removed}. First: {problems.train[0].question!r}")
    if any(COLUMN in problem.extra for problem in problems.evaluation):
        changed = sum(bool(given_changes(problem)) for problem in problems.evaluation)
        console.print(f"Audit: {changed} of {len(problems.evaluation)} evaluation problems give changed questions.")
    return problems
