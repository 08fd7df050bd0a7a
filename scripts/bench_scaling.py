"""Measures time and memory of a training step against the number of latents and the length of the prompt.

    python scripts/bench_scaling.py --out scaling.json --plot scaling.png

Three arms: the engine, the engine under activation checkpointing, and the floor (one parallel pass over the same
tokens). Memory is what the step adds to the process at its peak, gradients included. Every point runs in a process of
its own, one after the other: run it on an idle machine. Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import torch
import typer
from bench_engine import Setting, engine_step, floor_step
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BASE = Setting(layers=6, width=256, heads=8, vocabulary=1000, batch=8, prompt=320, answer=16)
LATENTS = [0, 2, 4, 8, 16, 32, 64]
PROMPTS = [64, 128, 256, 512, 900]
ARMS = ("engine", "checkpointing", "floor")


def measure(setting: Setting, arm: str, repeats: int) -> tuple[float, float]:
    """Median seconds of a step, and the MiB it adds at its peak."""
    torch.set_num_threads(1)
    model = setting.model().train()
    if arm == "checkpointing":
        model.activation_checkpointing_enable({"use_reentrant": False})
    step = floor_step if arm == "floor" else engine_step
    step(model, *replace(setting, batch=1, prompt=8).batch_of_rows())  # libraries take what they need once
    model.zero_grad(set_to_none=True)
    ids, labels = setting.batch_of_rows()
    before = forget_peak()
    step(model, ids, labels)
    added = memory_status("VmHWM") - before
    seconds = []
    for _ in range(repeats):
        model.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        step(model, ids, labels)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), added


def forget_peak() -> float:
    """Begins a new peak of this process's memory. Returns the MiB that it holds."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_status("VmRSS")


def memory_status(name: str) -> float:
    """A size in MiB from what Linux says of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def apart(setting: Setting, arm: str, repeats: int) -> tuple[float, float]:
    """`measure` in a fresh process: memory that was freed once may be used again."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (setting, arm, repeats))


def off_line(x: list[int], y: list[float]) -> float:
    """Largest distance from the best straight line, as a share of the largest value."""
    fit = np.polyval(np.polyfit(x, y, 1), x)
    return float(np.abs(fit - y).max() / max(y))


def main(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench_scaling.json"),
    plot: Annotated[Path, typer.Option(help="Picture to write.")] = Path("bench_scaling.png"),
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each point.")] = 3,
) -> None:
    sweeps = {
        "latents": (LATENTS, [replace(BASE, latents=count) for count in LATENTS]),
        "prompt": (PROMPTS, [replace(BASE, prompt=length) for length in PROMPTS]),
    }
    results: dict[str, float] = {}
    table = Table("against", "arm", "measure", "first", "last", "off a straight line")
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    for column, (against, (values, settings)) in enumerate(sweeps.items()):
        for arm in ARMS:
            points = [apart(setting, arm, repeats) for setting in settings]
            for row, (what, unit) in enumerate((("seconds", "s"), ("memory", "MiB"))):
                y = [point[row] for point in points]
                results |= {f"{what}/{arm}/{against}/{v}": number for v, number in zip(values, y, strict=True)}
                results[f"off_line/{what}/{arm}/{against}"] = off_line(values, y)
                table.add_row(
                    against, arm, f"{what} [{unit}]", f"{y[0]:.3g}", f"{y[-1]:.3g}", f"{off_line(values, y):.1%}"
                )
                axes[row][column].plot(values, y, marker="o", label=arm)
                axes[row][column].set(xlabel=f"{against} [tokens]", ylabel=f"{what} of a step [{unit}]")
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
    axes[0][0].legend()
    shape = f"{BASE.layers} layers, d {BASE.width}, batch {BASE.batch}"
    figure.suptitle(f"{shape}; prompt {BASE.prompt} and {BASE.latents} latents where they do not vary")
    figure.savefig(plot, dpi=110)
    out.write_text(json.dumps(results, indent=2) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
