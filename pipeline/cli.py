"""The `neuralese` command."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..data.errors import UserError
from .cli_measure import measure_app
from .terminal import Overrides, quiet
from .terminated import TERMINATED, TerminatedError, sigterm_raises

app = typer.Typer(
    help="Turn a base language model into a latent reasoner.", no_args_is_help=True, pretty_exceptions_enable=False
)
recipes_app = typer.Typer(help="The recipes that come with the package.", no_args_is_help=True)
app.add_typer(measure_app)
app.add_typer(recipes_app, name="recipes")

# Exit codes besides 0: bad input, a curriculum that missed a threshold, an interrupt.
BAD_INPUT, STOPPED, INTERRUPTED = 2, 3, 130


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the recipe's folder.")] = False,
) -> None:
    """Run a recipe: all training stages, the evaluation and the report."""
    from .recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from .run import leave_processes, run, stopped_curriculum

    try:
        run(loaded, resume)
    except KeyboardInterrupt:
        _complain("Interrupted. The same command with --resume goes on from the last checkpoint.", INTERRUPTED)
    leave_processes()
    stopped = stopped_curriculum(loaded)
    if stopped is not None:
        from accelerate import PartialState

        from .train.curriculum import why_stopped

        if not PartialState().is_main_process:
            sys.exit(STOPPED)
        _complain(why_stopped(stopped), STOPPED)


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
    target: Annotated[Path | None, typer.Argument(help="File to write; default: NAME.yaml here.")] = None,
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
    """Runs the command line; an error the user can mend is one paragraph, not a stack trace."""
    try:
        with sigterm_raises():
            return app(arguments)
    except TerminatedError:
        _complain("Terminated. What was finished is kept; `train` goes on from there with --resume.", TERMINATED)
    except UserError as error:
        _complain(f"Error: {error}", BAD_INPUT)
    except (FileNotFoundError, PermissionError, NotADirectoryError, FileExistsError) as error:
        _complain(f"Error: {error.strerror}: {error.filename}. Check the path and its permissions.", BAD_INPUT)


def _complain(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    typer.secho(message, fg="red", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
