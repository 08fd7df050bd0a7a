"""`neuralese check`: validates recipes and shows what they would do."""

from __future__ import annotations

from typing import Annotated

import typer

from .terminal import quiet


def check(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files, then keys to change as dotted.key=value.")],
) -> None:
    """Validate recipes and print what they would do. Trains nothing."""
    from ..recipe.load import RecipeError, load_recipe

    paths = [item for item in recipes if "=" not in item]
    if not paths:
        raise RecipeError("Name at least one recipe file.")
    loaded = [load_recipe(path, [item for item in recipes if "=" in item]) for path in paths]
    quiet()
    from .check_output import print_plan

    for path, recipe in zip(paths, loaded, strict=True):
        print_plan(path, recipe)
