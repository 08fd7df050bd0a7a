"""The `neuralese` command."""

from __future__ import annotations

import sys
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from .activity import NOW
from .border import STOPPED, complain, guard
from .cli_measure import measure_app
from .files import check_writable
from .terminal import Overrides, home, quiet

DEBUG = "--debug"
app = typer.Typer(
    help="Turn a base language model into a latent reasoner.",
    epilog=f"With {DEBUG} every command shows the stack trace of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="The recipes that come with the package.", no_args_is_help=True)
app.add_typer(measure_app)
app.add_typer(recipes_app, name="recipes")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.", callback=home)],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the recipe's folder.")] = False,
) -> None:
    """Run a recipe: all training stages, the evaluation and the report."""
    from .recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from .run import leave_processes, run, stopped_curriculum

    NOW.goes_on = "The same command with --resume goes on from the last checkpoint."
    run(loaded, resume)
    leave_processes()
    stopped = stopped_curriculum(loaded)
    if stopped is not None:
        from .train.curriculum import why_stopped

        complain(why_stopped(stopped), STOPPED)


@app.command()
def check(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files, then keys to change as dotted.key=value.")],
) -> None:
    """Validate recipes and print what they would do. Trains nothing."""
    from .recipe import RecipeError, load_recipe

    paths = [item for item in recipes if "=" not in item]
    if not paths:
        raise RecipeError("Name at least one recipe file.")
    loaded = [load_recipe(path, [item for item in recipes if "=" in item]) for path in paths]
    quiet()
    from .check import print_plan

    for path, recipe in zip(paths, loaded, strict=True):
        print_plan(path, recipe)


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

    from .recipe import RecipeError, nearest, read_values

    known = packaged_recipes()
    name = name.removesuffix(".yaml")
    if name not in known:
        raise RecipeError(f"There is no recipe {name!r}{nearest(name, list(known))}.")
    path = target or Path(f"{Path(name).name}.yaml")
    if path.exists():
        raise RecipeError(f"{path} exists and was kept. Name another file to write.")
    check_writable(path.parent, "a second argument")
    text = known[name].read_text(encoding="utf-8")
    if "\nextends:" in text:  # a path that holds only where the original lies
        first = text.splitlines()[0]
        text = f"{first}\n{yaml.safe_dump(read_values(known[name]), sort_keys=False, allow_unicode=True)}"
    path.write_text(text, encoding="utf-8")
    typer.echo(f"Wrote {path}. Change it, then: neuralese check {path}")


def packaged_recipes() -> dict[str, Path]:
    """Recipes of the package by name."""
    folder = Path(str(files("neuralese.recipes")))
    paths = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("controls/*.yaml"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; no error reaches the user as a stack trace, unless `--debug` asks for it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    rest = given[len(options) :]
    return guard(partial(app, [item for item in options if item != DEBUG] + rest), debug=DEBUG in options)


if __name__ == "__main__":
    main()
