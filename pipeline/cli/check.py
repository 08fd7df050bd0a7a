"""`neuralese check`: validates recipes and shows what they would do."""

from __future__ import annotations

from typing import Annotated

import typer

from .terminal import quiet


def check(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files, then keys to change as dotted.key=value.")],
    memory: Annotated[bool, typer.Option("--memory", help="Estimate the memory that each stage takes.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="With --memory: processes of the launch. Default: 1.")
    ] = None,
) -> None:
    """Validate recipes and print what they would do. Trains nothing."""
    from ..recipe.load import RecipeError, load_recipe

    paths = [item for item in recipes if "=" not in item]
    if not paths:
        raise RecipeError("Name at least one recipe file.")
    if processes is not None and not memory:
        raise RecipeError(f"--processes {processes} says for how many processes to estimate memory. Add --memory.")
    loaded = [load_recipe(path, [item for item in recipes if "=" in item]) for path in paths]
    quiet()
    from .check_output import print_plan

    for path, recipe in zip(paths, loaded, strict=True):
        print_plan(path, recipe, (processes or 1) if memory else None)
