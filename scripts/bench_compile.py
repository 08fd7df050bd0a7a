"""A training step and sampling with decoder layers that torch.compile has compiled, over those that it has not.

    python scripts/bench_compile.py [--device cuda] [--layers 6] [--width 512]

The layers of a GPT-2 are compiled as `model.compile` has them. Loss, gradients and samples must be those without a
compiler. Both models take turns; the seconds in which the compiler works are counted apart. Needs a C++ compiler.
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from bench_engine import Setting, answers, engine_step, medians
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from neuralese.pipeline.cli.terminal import quiet
from neuralese.pipeline.latent.engine.compiling import compile_layers


def gradients(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def main(
    device: Annotated[str, typer.Option()] = "cpu",
    layers: Annotated[int, typer.Option(min=1)] = 6,
    width: Annotated[int, typer.Option(min=8)] = 512,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    quiet()
    torch.set_num_threads(threads)
    setting = Setting(layers=layers, width=width, heads=8, vocabulary=1000, batch=16, prompt=32, answer=8)
    ids, labels = (rows.to(device) for rows in setting.batch_of_rows())
    prompts = setting.prompts(16, setting.prompt).tolist()
    eager, compiled = setting.model().to(device).train(), setting.model().to(device).train()
    compile_layers(compiled)

    def step(model: PreTrainedModel) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        return engine_step(model, ids, labels)

    def sample(model: PreTrainedModel) -> list[list[int]]:
        return answers(model, prompts, torch.arange(len(prompts)), setting.answer)

    table = Table(title=f"{layers} layers of width {width}, {device}, {threads} threads, torch {torch.__version__}")
    for column in ("", "eager, seconds", "compiled", "compiled over eager", "to compile, seconds"):
        table.add_column(column)
    for name, run in (("training step", step), ("sampling", sample)):
        begin = time.perf_counter()
        found = run(compiled)
        seconds = time.perf_counter() - begin
        expected = run(eager)
        if name == "sampling":
            assert found == expected, "the samples differ"
        else:
            torch.testing.assert_close(found, expected)
            distance = (gradients(compiled) - gradients(eager)).norm() / gradients(eager).norm()
            assert distance < 1e-4, f"the gradients differ by {distance:.1e} of their norm"
        both = {"eager": lambda run=run: run(eager), "compiled": lambda run=run: run(compiled)}
        medium = medians(eager, both, repeats)
        ratio = medium["compiled"] / medium["eager"]
        table.add_row(name, f"{medium['eager']:.3f}", f"{medium['compiled']:.3f}", f"{ratio:.2f}", f"{seconds:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
