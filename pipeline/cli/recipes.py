"""`neuralese recipes`: lists and copies the recipes that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ..system.files import check_writable
from .terminal import home

recipes_app = typer.Typer(help="The recipes that come with the package.", no_args_is_help=True)


@recipes_app.command("list")
def list_recipes() -> None:
    """List the recipes that come with the package."""
    for name, path in packaged_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        typer.echo(f"{name:24} {first}")


@recipes_app.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="A name from `neuralese recipes list`.")],
    target: Annotated[
        Path | None, typer.Argument(help="File to write; default: NAME.yaml here.", callback=home)
    ] = None,
) -> None:
    """Copy a recipe to make it yours. An existing file is kept."""
    import yaml

    from ..recipe.load import RecipeError, nearest, read_values

    known = packaged_recipes()
    name = name.removesuffix(".yaml")
    if name not in known:
        raise RecipeError(f"There is no recipe {name!r}{nearest(name, list(known))}.")
    path = target or Path(f"{Path(name).name}.yaml")
    if path.exists():
        raise RecipeError(f"{path} exists and was kept. Name another file to write.")
    check_writable(path.parent, "a second argument")
    text = known[name].read_text(encoding="utf-8")
    if "\nextends:" in text:  # a path relative to the original, so the copy gets the merged keys
        first = text.splitlines()[0]
        text = f"{first}\n{yaml.safe_dump(read_values(known[name]), sort_keys=False, allow_unicode=True)}"
    path.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {path}. Change it, then: neuralese check {path}")


def packaged_recipes() -> dict[str, Path]:
    """Files of the recipes in the package, by name."""
    folder = Path(str(files("neuralese.recipes")))
    paths = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("controls/*.yaml"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
