"""Measures an RL step: where its time goes, and how it compares with the step before sharing and with text RL.

    python scripts/bench_rl.py --out bench_rl.json
    python scripts/bench_rl.py --case llama1b --variant after --variant text --dtype bfloat16 --compile    # on a GPU

before   every rollout reads its own question, in sampling and in the update, and all logits exist at once
after    questions that rollouts share run once, and logits are made in parts
text     TRL's GRPOTrainer on the same model, sampling by Hugging Face's generate, with as many positions: its answers
         are as long as our latents and answers together
ppo      PPO in place of GRPO, whose critic judges the states while rollouts are drawn
again    the same, but drawn rollouts are replayed once for their values and log-probs, as versions before did

Each runs in a process of its own, in turns, from the same random weights, so that no answer ends early. Seconds are
medians over the steps of all rounds, after the first one of each process. Parts:

rollout    thinking and answering
replay     the forward and the backward pass of the update
optimizer  clipping and the step
rest       everything else: rewards, advantages, batching, logging

Memory is what the steps add to the peak of the process: on a GPU that of its allocator, else the resident size.
Tokens are latents and answer tokens; drawn/s is over the seconds of the rollout, used/s over those of the whole step.
`--dtype` and `--compile` are `model.dtype` and `model.compile`; text RL is autocast alike, and not compiled.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from rl_cases import CASES, Case
from taken_back import replay_again, unshare
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from neuralese.pipeline.recipe.schema import Recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer

VARIANTS = ("before", "after", "text", "ppo", "again")
OWNED = {
    "rollout": [(GRPOTrainer, "_generate_single_turn"), (LatentGRPOTrainer, "_generate_single_turn")],
    "replay": [(GRPOTrainer, "compute_loss"), (Accelerator, "backward")],
    "optimizer": [(Accelerator, "clip_grad_norm_"), (AcceleratedOptimizer, "step")],
}


def parity(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs within a group: half of all answers are right."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


class Clock(TrainerCallback):
    """Seconds of each step and of its parts, but for the first step, in which libraries take what they need once."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.parts: Counter[str] = Counter()
        self.inside = ""  # the part that runs: what it calls belongs to it
        for part, owners in OWNED.items():
            for owner, name in owners:
                setattr(owner, name, self.timed(part, owner.__dict__[name]))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.memory, self.begin = _peak_memory(), _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = _now()
        seconds, named = now - self.begin, dict(self.parts)
        if state.global_step > 1:
            self.steps.append({"step": seconds, **named, "rest": seconds - sum(named.values())})
        self.parts.clear()
        self.begin = now

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
                self.parts[part] += _now() - begin

        return measured

    def found(self) -> dict[str, Any]:
        return {"steps": self.steps, "memory": _peak_memory() - self.memory}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory() -> float:
    """In bytes."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def train_latents(case: Case, folder: Path, steps: int, clock: Clock, algorithm: str, model: dict[str, Any]) -> None:
    initialise = LatentGRPOTrainer.__init__

    def with_clock(self: LatentGRPOTrainer, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.add_callback(clock)

    LatentGRPOTrainer.__init__ = with_clock  # type: ignore[method-assign]
    problems = {"path": str(folder / "problems.jsonl"), "columns": {"steps": None}}
    trainer = case.trainer(steps) | {"max_completion_length": case.answer}
    values = {
        "name": "bench",
        "output_dir": str(folder / "runs"),
        "model": {"name_or_path": str(folder / "model"), **model},
        "data": {"train": problems, "eval": problems | {"limit": 1}},
        "rl": {
            "algorithm": algorithm,
            "noise": "gaussian:0.1",
            "rewards": [{"function": f"{__file__}:parity"}],
            "trainer": trainer,
        },
        "evaluate": {"problems": 1, "num_samples": 1, "k": [1], "max_new_tokens": 8},
        "tracking": {"wandb": False},
    }
    run(Recipe.model_validate(values))


def train_text(case: Case, folder: Path, steps: int, clock: Clock, dtype: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = GRPOConfig(
        str(folder / "runs"), report_to="none", disable_dropout=True, max_completion_length=case.latents + case.answer,
        bf16=dtype == "bfloat16", use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False,
        **case.trainer(steps),
    )  # fmt: skip
    GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        reward_funcs=parity,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [one.question + " ###" for one in case.problems(256)]}),
        processing_class=tokenizer,
        callbacks=[clock],
    ).train()


def work(case: Case, variant: str, folder: Path, steps: int, model: dict[str, Any]) -> None:
    """Trains in this process and leaves what the clock found in the folder."""
    clock = Clock()
    if variant == "before":
        unshare()
    if variant == "again":
        replay_again()
    if variant == "text":
        train_text(case, folder, steps + 1, clock, model["dtype"])
    else:
        train_latents(case, folder, steps + 1, clock, "ppo" if variant in ("ppo", "again") else "grpo", model)
    (folder / "found.json").write_text(json.dumps(clock.found()))


def measure(name: str, variant: str, steps: int, options: list[str]) -> dict[str, Any]:
    """Seconds of steps and their parts, and bytes, of one process."""
    with tempfile.TemporaryDirectory() as folder:
        CASES[name].save(Path(folder))
        command = [sys.executable, __file__, "--work", folder, "--case", name, "--variant", variant]
        done = subprocess.run(
            [*command, "--steps", str(steps), *options],
            capture_output=True,
            text=True,
            env={**os.environ, "WANDB_MODE": "disabled"},
        )
        if done.returncode:
            raise SystemExit(f"{name} {variant} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
        return found


def summary(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Medians of the seconds over the steps of all rounds, and of the bytes over the rounds."""
    steps = [step for one in rounds for step in one["steps"]]
    parts = {part: statistics.median(step.get(part, 0.0) for step in steps) for part in ("step", *OWNED, "rest")}
    return {**parts, "memory": statistics.median(one["memory"] for one in rounds)}


def report(name: str, found: dict[str, dict[str, float]]) -> None:
    rates = ("drawn/s", "used/s")
    columns = ("variant", "ms a step", *OWNED, "rest", "MiB", *rates)
    table = Table(*columns, title=f"{name}, {torch.get_num_threads()} threads")
    for variant, one in found.items():
        shares = [f"{one[part] / one['step']:.2f}" for part in (*OWNED, "rest")]
        drawn = [f"{CASES[name].positions / one[part]:,.0f}" for part in ("rollout", "step")]
        table.add_row(variant, f"{1000 * one['step']:.0f}", *shares, f"{one['memory'] / 2**20:.0f}", *drawn)
    Console().print(table)
    for ours, theirs in (("after", "before"), ("after", "text"), ("ppo", "again")):
        if ours in found and theirs in found:
            time_, memory = (found[ours][key] / found[theirs][key] for key in ("step", "memory"))
            print(f"{ours} / {theirs}: {time_:.2f} of the time, {memory:.2f} of the memory")


def main(
    case: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(CASES)}; default: the small.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(VARIANTS)}; default: all.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure in each process.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each variant.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the decoder layers.")] = False,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench_rl.json"),
    working: Annotated[Path | None, typer.Option("--work", hidden=True)] = None,
) -> None:
    if dtype not in ("float32", "bfloat16"):
        raise typer.BadParameter(f"--dtype {dtype} is none of float32 and bfloat16.")
    if working is not None:
        assert case is not None and variant is not None
        work(CASES[case[0]], variant[0], working, steps, {"dtype": dtype, "compile": compile})
        return
    options = ["--dtype", dtype, *(["--compile"] if compile else [])]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in case or [name for name in CASES if name != "llama1b"]:
        kept: dict[str, list[dict[str, Any]]] = {one: [] for one in variant or VARIANTS}
        for _ in range(rounds):
            for one in kept:
                kept[one].append(measure(name, one, steps, options))
        found[name] = {one: summary(results) for one, results in kept.items()}
        report(name, found[name])
        out.write_text(
            json.dumps(
                {"threads": torch.get_num_threads(), "dtype": dtype, "compile": compile, "cases": found}, indent=1
            )
        )


if __name__ == "__main__":
    typer.run(main)
