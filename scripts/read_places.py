"""Which latents of a thought can be read: the share of problems in which the head reads the token that each stands for.

    python scripts/read_places.py RUN... [--stage curriculum --stage rl] [--problems 500]

A mean over a thought hides a single latent that says something else after RL. Tokens are read in the state before each
latent, as `neuralese think` and the audit read them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from neuralese.pipeline.evaluate.audit.interventions import answer
from neuralese.pipeline.evaluate.audit.readings import lens, lens_and_steps
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe


def shares(run: Path, stage: str, count: int) -> list[float | None]:
    """For each place of a thought the share of problems; None where no latent stands for a token."""
    recipe = load_recipe(run / "recipe.yaml", [])
    reasoner = load_reasoner(run / stage / "final", dtype=recipe.model.dtype)
    own = answer(reasoner, load_all(recipe).evaluation[:count], recipe.evaluate)
    tokens, _ = lens(reasoner, own)
    pairs = lens_and_steps(reasoner, own, tokens[..., 0])
    return [sum(read == meant for read, meant in place) / len(place) if place else None for place in pairs]


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    stage: Annotated[list[str], typer.Option(help="Stages whose last checkpoint is read.")] = ["curriculum", "rl"],  # noqa: B006
    problems: Annotated[int, typer.Option(min=1)] = 500,
) -> None:
    trained = [(run, one) for run in runs for one in stage if (run / one / "final").exists()]
    found = {f"{run.name} {one}": shares(run, one, problems) for run, one in trained}
    table = Table("checkpoint", *map(str, range(1, 1 + max(map(len, found.values())))))
    for name, row in found.items():
        table.add_row(name, *("" if share is None else f"{share:.2f}" for share in row))
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)
