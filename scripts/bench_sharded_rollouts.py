"""What rollouts hold and take under ZeRO-3, with whole weights on every process and layer by layer.

    accelerate launch --config_file recipes/accelerate/zero3.yaml scripts/bench_sharded_rollouts.py [--width 2048]

A GPT-2 of 4 wide layers with random weights draws the same rollouts in both ways, which take turns. The processes have
questions, thoughts and answers of different lengths. Memory is what a draw adds to the process at its peak. Linux only.
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from bench_engine import LATENT_ID, Setting
from bench_scaling import forget_peak, memory_status
from rich.console import Console
from rich.table import Table

from neuralese.pipeline.cli.terminal import quiet
from neuralese.pipeline.latent.sampling.answers import Generated, SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate
from neuralese.pipeline.system.processes import join_processes, leave_processes
from neuralese.pipeline.train.generation import generating

WAYS = {"whole weights": True, "layer by layer": False}


def draw(trainer: Any, prompts: list[list[int]], tokens: int) -> Generated:
    rows = torch.arange(len(prompts))
    with generating(trainer) as policy:
        return generate(policy, prompts, rows, rows, SamplingParams(1.0, tokens), None, [0])


def measure(trainer: Any, prompts: list[list[int]], tokens: int, repeats: int) -> dict[str, tuple[float, float]]:
    """MiB that a draw adds to this process, and the seconds of the fastest, for both ways."""
    added, seconds = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, float("inf"))
    drawn: dict[str, Generated] = {}
    for _ in range(repeats):
        for way, trainer.ds3_gather_for_generation in WAYS.items():
            before = forget_peak()
            begin = time.perf_counter()
            drawn[way] = draw(trainer, prompts, tokens)
            seconds[way] = min(seconds[way], time.perf_counter() - begin)
            added[way] = max(added[way], memory_status("VmHWM") - before)
    one, two = drawn.values()
    assert one.token_ids == two.token_ids and torch.equal(one.latents, two.latents), "the samples differ"
    return {way: (added[way], seconds[way]) for way in WAYS}


def main(
    width: Annotated[int, typer.Option(min=8)] = 2048,
    tokens: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    quiet()
    state = join_processes()
    os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = "1"  # the launcher's file leaves it to a Trainer
    plugin = DeepSpeedPlugin(zero_stage=3)
    plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True}
    accelerator = Accelerator(deepspeed_plugin=plugin)
    model = Setting(layers=4, width=width, heads=8, vocabulary=1000, latents=2, batch=4, prompt=32, answer=8).model()
    size = sum(weight.numel() for weight in model.parameters()) * torch.float32.itemsize / 2**20
    engine = accelerator.prepare(model.eval(), torch.optim.SGD(model.parameters(), lr=0.0))[0]
    trainer = SimpleNamespace(model_wrapped=engine, accelerator=accelerator, ds3_gather_for_generation=True)
    latents = 1 + state.process_index
    prompts = [[5 + row, *range(20, 30 + row), *[LATENT_ID] * latents] for row in range(4 + 2 * state.process_index)]
    found = measure(trainer, prompts, tokens, repeats)
    if accelerator.is_main_process:
        table = Table(title=f"{state.num_processes} processes, weights of {size:.0f} MiB, process 0")
        for column in ("rollouts with", "MiB added", "seconds", "over whole weights"):
            table.add_column(column)
        for way, (added, seconds) in found.items():
            table.add_row(way, f"{added:.0f}", f"{seconds:.2f}", f"{seconds / found['whole weights'][1]:.2f}")
        Console(width=100).print(table)
    leave_processes()


if __name__ == "__main__":
    typer.run(main)
