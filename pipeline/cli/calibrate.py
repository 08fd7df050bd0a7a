"""`neuralese calibrate`: proposes a scale of noise for a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from .terminal import LatentFolder, Output, Overrides, RecipeFile, quiet


def calibrate(
    folder: LatentFolder,
    overrides: Overrides = None,
    noise: Annotated[str, typer.Option(help="Kind of noise.")] = "gaussian",
    scale: Annotated[list[float] | None, typer.Option(help="A scale to try; repeat for more.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of the answers; 0: noise alone.")] = 0.0,
    output: Output = None,
    recipe: RecipeFile = None,
) -> None:
    """Measure pass@1 and pass@k against the scale of a noise, on held-out training problems, and propose one."""
    quiet()
    from ..run.calibrate import SCALES, calibrate
    from ..system.processes import leave_processes

    calibrate(folder, overrides or [], noise, scale or SCALES, temperature, output, recipe)
    leave_processes()
