"""`neuralese reward-model`: trains a latent reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import LatentFolder, Overrides, RecipeFile, home, quiet


def reward_model(
    context: typer.Context,
    folder: LatentFolder,
    overrides: Overrides = None,
    noise: Annotated[str, typer.Option(help="Noise on the latents, such as gaussian:0.3.")] = "gaussian:0.3",
    thoughts: Annotated[int, typer.Option(min=2, help="Thoughts of each problem.")] = 8,
    answers: Annotated[int, typer.Option(min=1, help="Answers after each thought, which judge it.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of those answers; 0 takes the most likely one.")] = 0.0,
    problems: Annotated[int, typer.Option(min=3, help="Training problems; two fifths of them are held out.")] = 6000,
    samples: Annotated[
        Path | None,
        typer.Option(help="Learn from the samples of this file, which an evaluation scored.", callback=home),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the problems.")] = 30,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of AdamW.")] = 1e-3,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; default: latent_reward beside it.", callback=home)
    ] = None,
    recipe: RecipeFile = None,
) -> None:
    """Train a latent reward model, which tells good thoughts from bad ones. Evaluate with evaluate.latent_reward."""
    if samples is not None:
        _refuse(
            context, ("noise", "thoughts", "answers", "temperature", "problems"), "--samples takes thoughts as drawn"
        )
    quiet()
    from ..run.latent_reward import train_reward_model
    from ..scoring.sampling_setting import Setting
    from ..system.processes import alone

    setting = Setting(thoughts * answers, noise, temperature, answers)
    alone(
        lambda: train_reward_model(
            folder, overrides or [], setting, problems, epochs, learning_rate, output, recipe, samples
        )
    )


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Checks that none of these options was given.

    Raises:
        BadParameter: One was.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{why}; remove --{name}.")
