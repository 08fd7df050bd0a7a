"""Measures where the time of an RL step goes, and what sharing the prefill of a prompt saves.

    neuralese train recipes/quickstart.yaml
    python scripts/bench_rl.py recipes/quickstart.yaml outputs/quickstart/curriculum/final --out bench_rl.json

rollout    thinking and answering
replay     the forward and the backward pass of the update
optimizer  clipping and the step
rest       everything else: rewards, advantages, batching, logging; the aim is at most 20%
prefill    seconds of rollouts whose equal prompts are read once / seconds where each rollout reads its own, medians of
           draws that take turns
shared     the same of the update's forward and backward
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback
from trl import GRPOTrainer

from neuralese.pipeline.latent.batch import Draw
from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.latent.sampling.generate import SamplingParams, generate
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.problems.load import load_evaluation
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.recipe.schema import Recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.rl.estimators import replayed_logps
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer
from neuralese.pipeline.train.rl.logps import Answers

PARTS = {
    "rollout": [(LatentGRPOTrainer, "_generate_single_turn")],
    "replay": [(GRPOTrainer, "compute_loss"), (Accelerator, "backward")],
    "optimizer": [(Accelerator, "clip_grad_norm_"), (AcceleratedOptimizer, "step")],
}


class Clock(TrainerCallback):
    """Seconds of each part of the steps after the first ones, in which libraries take what they need once."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.steps, self.running = warmup, 0, False
        self.seconds: Counter[str] = Counter()
        self.inside = ""  # the part that runs: what it calls belongs to it

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = _now()
        if self.running:
            self.seconds["step"] += now - self.begin
            self.steps += 1
        self.begin, self.running = now, state.global_step >= self.warmup

    def timed(self, part: str, function: Any) -> Any:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, begin = part, _now()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = ""
                self.seconds[part] += (_now() - begin) * self.running

        return measured


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_steps(recipe: Recipe, checkpoint: Path, steps: int) -> dict[str, float]:
    """Seconds of a mean RL step, in all and of each part, from a checkpoint."""
    clock = Clock(warmup=3)
    for part, methods in PARTS.items():
        for owner, name in methods:
            setattr(owner, name, clock.timed(part, getattr(owner, name)))
    initialise = LatentGRPOTrainer.__init__

    def with_clock(self: LatentGRPOTrainer, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.add_callback(clock)

    LatentGRPOTrainer.__init__ = with_clock  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        values = recipe.model_dump(mode="json")
        values["model"] |= {"name_or_path": str(checkpoint), "config": None}
        values["rl"]["trainer"]["max_steps"] = clock.warmup + steps
        values["evaluate"] |= {"problems": 1}
        values |= {"output_dir": folder, "sft": None, "curriculum": None, "controls": {}, "tracking": {"wandb": False}}
        run(Recipe.model_validate(values))
    seconds = {name: clock.seconds[name] / clock.steps for name in ("step", *PARTS)}
    return {**seconds, "rest": seconds["step"] - sum(seconds[part] for part in PARTS)}


def sharing_ratios(recipe: Recipe, checkpoint: Path, repeats: int) -> tuple[float, float]:
    """Seconds with shared questions over those without: of one step's rollouts, and of their forward and backward."""
    assert recipe.rl is not None
    trainer = recipe.rl.trainer
    count, group = trainer["per_device_train_batch_size"], trainer["num_generations"]
    reasoner = load_reasoner(checkpoint, noise=recipe.rl.noise)
    questions = [problem.question for problem in load_evaluation(recipe)[: count // group]]
    prompts = [reasoner.prompt_ids(question) for question in questions]
    noise, sampling = parse_noise(recipe.rl.noise), SamplingParams(1.0, trainer["max_completion_length"])
    if noise is not None:
        noise.prepare(reasoner.model)
    shared, seeds = torch.arange(len(prompts)).repeat_interleave(group), torch.arange(len(prompts) * group)
    own = [prompts[row] for row in shared]
    end = [reasoner.tokenizer.eos_token_id]

    def draw(is_shared: bool) -> Any:
        ids, rows = (prompts, shared) if is_shared else (own, torch.arange(len(own)))
        with torch.no_grad():
            return generate(reasoner.model, ids, rows, seeds, sampling, noise, end)

    answers = _answers(own, draw(True).token_ids, reasoner.tokenizer.pad_token_id)

    def update(is_shared: bool) -> None:
        draws = Draw(noise, seeds) if noise is not None else None
        special = reasoner.config.token_ids
        replayed_logps(reasoner.model, answers, draws, 1.0, special, share_questions=is_shared).logps.sum().backward()

    return _ratio(draw, repeats), _ratio(update, repeats)


def _answers(prompts: list[list[int]], answers: list[list[int]], pad: int) -> Answers:
    """Rollouts as TRL lays them out: questions padded on the left, answers on the right."""
    asked, width = max(map(len, prompts)), max(map(len, answers))
    rows = [
        ([pad] * (asked - len(one)) + one, other + [pad] * (width - len(other)), len(one), len(other))
        for one, other in zip(prompts, answers, strict=True)
    ]
    ids = torch.tensor([one + other for one, other, _, _ in rows])
    mask = torch.tensor([[0] * (asked - p) + [1] * (p + a) + [0] * (width - a) for _, _, p, a in rows])
    return Answers(ids, mask, width)


def _ratio(work: Callable[[bool], Any], repeats: int) -> float:
    """Median seconds of work with sharing over those without, in turns after a first one of each."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats + 1):
        for is_shared in seconds:
            begin = _now()
            work(is_shared)
            seconds[is_shared].append(_now() - begin)
    return statistics.median(seconds[True][1:]) / statistics.median(seconds[False][1:])


def main(
    file: Annotated[Path, typer.Argument(help="Recipe with rl.")],
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that RL begins at.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure, after three that are not.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Draws with and without a shared prefill.")] = 10,
    override: Annotated[list[str] | None, typer.Option(help="Recipe key to change, as dotted.key=value.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench_rl.json"),
) -> None:
    recipe = load_recipe(file, override or [])
    prefill, shared = sharing_ratios(recipe, checkpoint, repeats)
    seconds = time_steps(recipe, checkpoint, steps)
    threads = torch.get_num_threads()
    found = {"threads": threads, "steps": steps, "seconds": seconds, "prefill": prefill, "shared": shared}
    out.write_text(json.dumps(found, indent=1))
    table = Table("part", "ms a step", "share", title=f"{steps} RL steps, {threads} threads")
    for name in (*PARTS, "rest", "step"):
        table.add_row(name, f"{1000 * seconds[name]:.1f}", f"{seconds[name] / seconds['step']:.3f}")
    Console().print(table)
    print(f"Rollouts with shared prefills take {prefill:.2f} of the time of rollouts that each read their prompt,")
    print(f"and their forward and backward {shared:.2f} of the time of those that each run it.")


if __name__ == "__main__":
    typer.run(main)
