"""`neuralese audit`: whether a model's answers depend on its latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import LatentFolder, Output, Overrides, RecipeFile, home, quiet


def audit(
    folder: LatentFolder,
    overrides: Overrides = None,
    control: Annotated[
        Path | None, typer.Option(help="Checkpoint of a pause control, or a run with one.", callback=home)
    ] = None,
    problems: Annotated[int, typer.Option(min=2, help="Evaluation problems to answer.")] = 500,
    guess: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Accuracy of a guess.")] = None,
    output: Output = None,
    recipe: RecipeFile = None,
) -> None:
    """Ask whether a model's answers are made of its latents, and what its latents say."""
    quiet()
    from ..run.audit import audit_folder
    from ..system.processes import alone

    alone(lambda: audit_folder(folder, overrides or [], control, problems, guess, output, recipe))
