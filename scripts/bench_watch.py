"""Measures the share of an RL step that goes into what is watched: latents, gradients, ratios, time and throughput.

    python scripts/bench_watch.py recipes/quickstart.yaml outputs/quickstart/curriculum/final

Seconds are of this process on the CPU, so that other programs do not count, and on a GPU those of the host, which is
then made to wait for the device. Printed is the share of each part of the watching, and of all; the aim is below 3%.
The effective rank is timed once more beside a decomposition of the latents themselves (SVD).
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback

from neuralese.pipeline.latent.geometry import effective_ranks
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.recipe.schema import Recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train import timed_trainer
from neuralese.pipeline.train.clock import Clock
from neuralese.pipeline.train.rl import grpo, measured
from neuralese.pipeline.train.watched import Watched

WATCHING: dict[str, list[tuple[Any, str]]] = {
    "rollouts": [(measured.MeasuredTrainer, "watch_rollouts"), (grpo, "reward_metrics")],
    "gradients": [(measured.LatentGradients, name) for name in ("__call__", "_keep", "take")],
    "ratios": [(grpo, "ratio_sd"), (grpo, "replay_metrics")],
    "effective rank": [(measured, "spread_metrics")],
    "clock": [(Clock, name) for name in ("enter", "leave", "count", "take")],
    "log": [(Watched, "add"), (Watched, "take"), *((timed_trainer, name) for name in ("gather", "readings", "means"))],
}
WARMUP = 3  # steps that are not measured


class Stopwatch(TrainerCallback):
    """Seconds of steps, and of the functions that watch them."""

    def __init__(self) -> None:
        self.steps = 0
        self.step = 0.0
        self.seconds: Counter[str] = Counter()
        self.inside = False  # what a function calls belongs to it

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == WARMUP:
            self.begin = seconds_now()
            self.seconds.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step, self.steps = seconds_now() - self.begin, state.global_step - WARMUP

    def timed(self, part: str, function: Any) -> Any:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, begin = True, seconds_now()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False
                self.seconds[part] += seconds_now() - begin

        return measured


def seconds_now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def watch_steps(recipe: Recipe, checkpoint: Path, steps: int) -> tuple[Stopwatch, torch.Tensor]:
    """Runs RL from a checkpoint. Returns the seconds, and the latents (B, L, d) of the last rollouts."""
    stopwatch, seen = Stopwatch(), []
    spread = measured.spread_metrics

    def keeping(latents: torch.Tensor | None, num_latents: torch.Tensor | None) -> Any:
        seen[:] = [latents] if latents is not None else seen
        return spread(latents, num_latents)

    measured.spread_metrics = keeping
    for part, functions in WATCHING.items():
        for owner, name in functions:
            setattr(owner, name, stopwatch.timed(part, getattr(owner, name)))
    initialise = grpo.LatentGRPOTrainer.__init__

    def with_stopwatch(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.add_callback(stopwatch)

    grpo.LatentGRPOTrainer.__init__ = with_stopwatch  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        values = recipe.model_dump(mode="json")
        values["model"] |= {"name_or_path": str(checkpoint), "config": None}
        values["rl"]["trainer"]["max_steps"] = WARMUP + steps
        values["evaluate"] |= {"problems": 1}
        values |= {"output_dir": folder, "sft": None, "curriculum": None, "controls": {}, "tracking": {"wandb": False}}
        run(Recipe.model_validate(values))
    return stopwatch, seen[0]


def by_svd(latents: torch.Tensor) -> torch.Tensor:
    """The effective rank (L,) by singular values in the precision of the latents."""
    values = torch.linalg.svdvals(latents.transpose(0, 1) - latents.mean(0)[:, None])
    return torch.special.entr(values / values.sum(-1, keepdim=True)).sum(-1).exp()


def median_seconds(work: Callable[[], Any], repeats: int = 7) -> float:
    found = []
    for _ in range(repeats + 1):
        begin = seconds_now()
        work()
        found.append(seconds_now() - begin)
    return statistics.median(found[1:])


def main(
    file: Annotated[Path, typer.Argument(help="Recipe with rl.")],
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that RL begins at.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure, after three that are not.")] = 40,
    override: Annotated[list[str] | None, typer.Option(help="Recipe key to change, as dotted.key=value.")] = None,
) -> None:
    found, latents = watch_steps(load_recipe(file, override or []), checkpoint, steps)
    table = Table("watched", "ms a step", "share", title=f"{found.steps} RL steps, {torch.get_num_threads()} threads")
    for name, value in (*found.seconds.items(), ("all", sum(found.seconds.values())), ("step", found.step)):
        table.add_row(name, f"{1000 * value / found.steps:.2f}", f"{100 * value / found.step:.2f}%")
    Console().print(table)
    gram, svd = median_seconds(lambda: effective_ranks(latents)), median_seconds(lambda: by_svd(latents.float()))
    print(f"Effective rank of latents {tuple(latents.shape)}: {1000 * gram:.1f} ms, by SVD {1000 * svd:.1f} ms.")
    print(f"ratio {sum(found.seconds.values()) / found.step:.4f}")


if __name__ == "__main__":
    typer.run(main)
