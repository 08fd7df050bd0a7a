"""Measures an RL step: where its time goes, and how it compares with the step before sharing and with text RL.

    python scripts/bench_rl.py --out bench_rl.json

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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from taken_back import replay_again, unshare
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from neuralese.data.problem import Problem
from neuralese.pipeline.model.build import build_config, build_tokenizer
from neuralese.pipeline.model.load import make_reasoner
from neuralese.pipeline.recipe.schema import Recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer

VARIANTS = ("before", "after", "text", "ppo", "again")
OWNED = {
    "rollout": [(GRPOTrainer, "_generate_single_turn"), (LatentGRPOTrainer, "_generate_single_turn")],
    "replay": [(GRPOTrainer, "compute_loss"), (Accelerator, "backward")],
    "optimizer": [(Accelerator, "clip_grad_norm_"), (AcceleratedOptimizer, "step")],
}
GROUP = 16


@dataclass(frozen=True)
class Case:
    """A random model, and the lengths of its rows in tokens."""

    model: dict[str, Any]
    vocabulary: int
    questions: int
    prompt: int
    latents: int
    answer: int

    def trainer(self, steps: int) -> dict[str, Any]:
        """Fields of GRPOConfig that both trainers share."""
        return {
            "max_steps": steps, "per_device_train_batch_size": self.questions * GROUP, "num_generations": GROUP,
            "learning_rate": 1e-5, "beta": 0.0, "scale_rewards": "none", "logging_steps": 1, "save_strategy": "no",
        }  # fmt: skip

    def problems(self, count: int) -> list[Problem]:
        """Questions of random words, as many as fill a prompt that ends in `###` after its latents."""
        draws = torch.Generator().manual_seed(0)
        words = torch.randint(self.vocabulary, (count, self.prompt - 1), generator=draws).tolist()
        return [Problem(" ".join(f"w{word}" for word in row), [], "w0") for row in words]

    def save(self, folder: Path) -> None:
        """Writes the model with its latents, and the problems as JSONL."""
        every = Problem(" ".join(f"w{word}" for word in range(self.vocabulary)), [], "w0")
        tokenizer = build_tokenizer([every])
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(build_config(self.model, tokenizer))
        reasoner = make_reasoner(model, tokenizer, num_latents=self.latents)
        reasoner.save_pretrained(folder / "model")
        rows = [{"question": one.question, "answer": one.answer} for one in self.problems(256)]
        (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _gpt2(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": 1024,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip


_LLAMA = {
    "model_type": "llama", "num_hidden_layers": 16, "hidden_size": 128, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 1, "max_position_embeddings": 1024,
}  # fmt: skip
CASES = {
    "quickstart": Case(_gpt2(2, 96, 4), 64, questions=32, prompt=14, latents=5, answer=6),
    "prompt64": Case(_gpt2(12, 768, 12), 50257, questions=1, prompt=64, latents=6, answer=16),
    "prompt512": Case(_gpt2(12, 768, 12), 50257, questions=1, prompt=512, latents=6, answer=16),
    "deep": Case(_LLAMA, 32000, questions=4, prompt=64, latents=6, answer=16),
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


def train_latents(case: Case, folder: Path, steps: int, clock: Clock, algorithm: str) -> None:
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
        "model": {"name_or_path": str(folder / "model")},
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


def train_text(case: Case, folder: Path, steps: int, clock: Clock) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = GRPOConfig(
        str(folder / "runs"), report_to="none", disable_dropout=True, max_completion_length=case.latents + case.answer,
        bf16=False, gradient_checkpointing=False, **case.trainer(steps),
    )  # fmt: skip
    GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        reward_funcs=parity,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [one.question + " ###" for one in case.problems(256)]}),
        processing_class=tokenizer,
        callbacks=[clock],
    ).train()


def work(case: Case, variant: str, folder: Path, steps: int) -> None:
    """Trains in this process and leaves what the clock found in the folder."""
    clock = Clock()
    if variant == "before":
        unshare()
    if variant == "again":
        replay_again()
    if variant == "text":
        train_text(case, folder, steps + 1, clock)
    else:
        train_latents(case, folder, steps + 1, clock, "ppo" if variant in ("ppo", "again") else "grpo")
    (folder / "found.json").write_text(json.dumps(clock.found()))


def measure(name: str, variant: str, steps: int) -> dict[str, Any]:
    """Seconds of steps and their parts, and bytes, of one process."""
    with tempfile.TemporaryDirectory() as folder:
        CASES[name].save(Path(folder))
        command = [sys.executable, __file__, "--work", folder, "--case", name, "--variant", variant]
        done = subprocess.run(
            [*command, "--steps", str(steps)],
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
    table = Table("variant", "ms a step", *OWNED, "rest", "MiB", title=f"{name}, {torch.get_num_threads()} threads")
    for variant, one in found.items():
        shares = [f"{one[part] / one['step']:.2f}" for part in (*OWNED, "rest")]
        table.add_row(variant, f"{1000 * one['step']:.0f}", *shares, f"{one['memory'] / 2**20:.0f}")
    Console().print(table)
    for ours, theirs in (("after", "before"), ("after", "text"), ("ppo", "again")):
        if ours in found and theirs in found:
            time_, memory = (found[ours][key] / found[theirs][key] for key in ("step", "memory"))
            print(f"{ours} / {theirs}: {time_:.2f} of the time, {memory:.2f} of the memory")


def main(
    case: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(CASES)}; default: all.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(VARIANTS)}; default: all.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure in each process.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each variant.")] = 2,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench_rl.json"),
    working: Annotated[Path | None, typer.Option("--work", hidden=True)] = None,
) -> None:
    if working is not None:
        assert case is not None and variant is not None
        work(CASES[case[0]], variant[0], working, steps)
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in case or CASES:
        kept: dict[str, list[dict[str, Any]]] = {one: [] for one in variant or VARIANTS}
        for _ in range(rounds):
            for one in kept:
                kept[one].append(measure(name, one, steps))
        found[name] = {one: summary(results) for one, results in kept.items()}
        report(name, found[name])
        out.write_text(json.dumps({"threads": torch.get_num_threads(), "cases": found}, indent=1))


if __name__ == "__main__":
    typer.run(main)
