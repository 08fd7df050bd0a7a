"""`neuralese train`: runs a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..system.activity import NOW
from .errors import STOPPED, complain
from .terminal import Overrides, home, quiet


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.", callback=home)],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the recipe's folder.")] = False,
) -> None:
    """Run a recipe: all training stages, the evaluation and the report."""
    from ..recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    quiet()
    from ..run.finished_stages import stopped_curriculum
    from ..run.train import run
    from ..system.processes import leave_processes
    from ..train.termination import SavedAndTerminatedError

    NOW.goes_on = "The same command with --resume goes on from the last checkpoint."
    try:
        run(loaded, resume)
    except SavedAndTerminatedError:
        leave_processes()  # together: a launcher kills the others where one has left
        raise
    leave_processes()
    stopped = stopped_curriculum(loaded)
    if stopped is not None:
        from ..train.curriculum.reports import why_stopped

        complain(why_stopped(stopped), STOPPED)
