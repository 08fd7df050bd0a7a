"""Which latents of a thought can be read: the share of problems in which the head reads the token that each stands for.

    python scripts/read_places.py RUN... [--stage curriculum --stage rl] [--problems 500] [--loops] [--earlier 0]

A mean over a thought hides a single latent that says something else after RL. Tokens are read in the state before each
latent, as `neuralese think` and the audit read them; --loops reads them after each loop, too. --earlier N asks for the
token that the Nth latent before stands for: whether a thought lags behind its steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neuralese.pipeline.evaluate.audit.interventions import answer
from neuralese.pipeline.latent.supervision import IGNORE
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.model.reading import read_latents
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe


def shares(run: Path, stage: str, count: int, every_loop: bool, earlier: int) -> list[list[float]]:
    """For each loop asked for, and each place of a thought, the share of problems; NaN where none has such a token."""
    recipe = load_recipe(run / "recipe.yaml", [])
    reasoner = load_reasoner(run / stage / "final", dtype=recipe.model.dtype)
    own = answer(reasoner, load_all(recipe).evaluation[:count], recipe.evaluate)
    lengths = own.counts.tolist()
    prompts = [reasoner.prompt_ids(problem.question, n) for problem, n in zip(own.problems, lengths, strict=True)]
    tokens = read_latents(reasoner, prompts, passes=every_loop).tokens[..., 0]  # (loops, P, L)
    style = Format(reasoner.config, eos_token_id=reasoner.tokenizer.eos_token_id)
    encoded = encode(own.problems, reasoner.tokenizer, reasoner.config)
    meant = torch.tensor([style.stands_for(item, tokens.size(2)) for item in encoded])
    meant = meant.masked_fill(torch.arange(meant.size(1)) >= own.counts[:, None], IGNORE)
    return [share.tolist() for share in shares_said(tokens, meant, earlier)]


def shares_said(tokens: Tensor, meant: Tensor, earlier: int) -> Tensor:
    """Shares (loops, L) of problems in which a token is the one meant, -100 for none, so many places before.

    Args:
        tokens: (loops, P, L).
        meant: (P, L).
    """
    meant = torch.cat([torch.full_like(meant[:, :earlier], IGNORE), meant[:, : meant.size(1) - earlier]], 1)
    return (tokens == meant).sum(1) / (meant != IGNORE).sum(0)


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    stage: Annotated[list[str], typer.Option(help="Stages whose last checkpoint is read.")] = ["curriculum", "rl"],  # noqa: B006
    problems: Annotated[int, typer.Option(min=1)] = 500,
    loops: Annotated[bool, typer.Option("--loops", help="Read after every loop, the placeholders first.")] = False,
    earlier: Annotated[int, typer.Option(min=0, help="Ask for the token of so many latents before.")] = 0,
) -> None:
    trained = [(run, one) for run in runs for one in stage if (run / one / "final").exists()]
    found = {f"{run.name} {one}": shares(run, one, problems, loops, earlier) for run, one in trained}
    if not found:
        raise typer.BadParameter(f"no checkpoint of {' or '.join(stage)} in {', '.join(map(str, runs))}")
    table = Table("checkpoint", "loop", *map(str, range(1, 1 + max(len(rows[0]) for rows in found.values()))))
    for name, rows in found.items():
        for loop, row in enumerate(rows):
            cells = ("" if share != share else f"{share:.2f}" for share in row)
            table.add_row(name, str(loop) if len(rows) > 1 else "last", *cells)
    Console(width=180).print(table)


if __name__ == "__main__":
    typer.run(main)
