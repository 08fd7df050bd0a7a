"""What an answer costs after text and after latents, stage by stage, of one run.

    python scripts/bench_answers.py RUN [--problems 48] [--batch 1 --batch 16] [--repeats 3]

Answers are greedy. Seconds are those of the fastest repeat, over the number of problems; the stages take turns, so that
a busy machine slows all of them. Ratios are over the stage sft, text, at the same batch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from neuralese.pipeline.cli.terminal import quiet
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.model.reasoner import Reasoner, Samples
from neuralese.pipeline.problems.load import load_evaluation
from neuralese.pipeline.run.finished_stages import find_checkpoints

TEXT = "sft"


def answered(reasoner: Reasoner, questions: list[str], batch: int, tokens: int) -> tuple[float, list[Samples]]:
    """Seconds for all questions, and their answers."""
    started, found = time.perf_counter(), []
    for begin in range(0, len(questions), batch):
        found += reasoner.generate(questions[begin : begin + batch], max_new_tokens=tokens)
    return time.perf_counter() - started, found


def main(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    problems: Annotated[int, typer.Option(min=1)] = 48,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Repeat for more.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    quiet()
    recipe, checkpoints = find_checkpoints(run, [], None)
    questions = [problem.question for problem in load_evaluation(recipe)[:problems]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasoners = {name: load_reasoner(path, **recipe.model.loading_in_full) for name, path in checkpoints.items()}
    for reasoner in reasoners.values():
        reasoner.model.to(device).eval()
    tokens = recipe.evaluate.max_new_tokens
    table = Table(title=f"{len(questions)} problems, {torch.get_num_threads()} threads, {device}")
    for column in ("batch", "stage", "seconds an answer", "tokens", "latents", "over text"):
        table.add_column(column)
    for size in batch or [1, 16]:
        seconds = dict.fromkeys(reasoners, float("inf"))
        samples: dict[str, list[Samples]] = {}
        for _ in range(repeats):
            for name, reasoner in reasoners.items():
                took, samples[name] = answered(reasoner, questions, size, tokens)
                seconds[name] = min(seconds[name], took)
        for name, found in samples.items():
            written = sum(len(one.token_ids[0]) for one in found) / len(found)
            latents = sum(one.num_latents[0] for one in found) / len(found)
            ratio = f"{seconds[name] / seconds[TEXT]:.2f}" if TEXT in seconds else "no sft"
            table.add_row(
                str(size), name, f"{seconds[name] / len(found):.4f}", f"{written:.1f}", f"{latents:.1f}", ratio
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
