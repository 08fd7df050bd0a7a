"""Measures the draws of a batch against a loop over its rows, each with a generator of its own; prints a table.

    python scripts/bench_draws.py --threads 1

noise WxL   `Noise.sample_batch` of `gaussian`, for so many rows, latents and dimensions
tokens      the uniform numbers that tokens are drawn by, for so many rows and tokens

The loop is what the package did before: torch's generator, seeded anew for every row, on the CPU, and then the copy to
the device. Every ratio is between medians of runs that take turns in one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.latent.sampling.answers import token_draws

ROWS, LATENTS, TOKENS = 512, 6, 32


def row_by_row(draw: Callable[..., Tensor], seeds: Tensor, *shape: int) -> Tensor:
    rows = [draw(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
    return torch.stack(rows).to(seeds.device)


def medians(runs: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each run. They take turns, so that a slow moment of the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            begin = time.perf_counter()
            run().flatten()[-1].item()  # waits for the device
            if turn > 1:  # the first turns warm up
                found[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(times) for name, times in found.items()}


def main(
    device: Annotated[str, typer.Option(help="Where the draws are needed.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch on the CPU.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each figure.")] = 15,
    widths: Annotated[list[int], typer.Option(min=1, help="Dimensions; repeat the option.")] = [96, 768, 4096],  # noqa: B006
) -> None:
    torch.set_num_threads(threads)
    noise = parse_noise("gaussian:0.3")
    assert noise is not None
    seeds = torch.randint(1, 2**62, (ROWS,)).to(device)
    number = torch.zeros_like(seeds)
    table = Table(
        "draws", "loop, ms", "ours, ms", "ours / loop", title=f"{device}, {threads} threads, {repeats} repeats"
    )
    for width in widths:
        found = medians(
            {
                "loop": lambda width=width: row_by_row(torch.randn, seeds, LATENTS, width),
                "ours": lambda width=width: noise.sample_batch(seeds, LATENTS, width),
            },
            repeats,
        )
        name = f"noise {ROWS} x {LATENTS} x {width}"
        table.add_row(name, *(f"{found[one]:.3g}" for one in found), f"{found['ours'] / found['loop']:.2f}")
    found = medians(
        {
            "loop": lambda: row_by_row(torch.rand, seeds, TOKENS),
            "ours": lambda: token_draws(seeds, number, TOKENS),
        },
        repeats,
    )
    name = f"tokens {ROWS} x {TOKENS}"
    table.add_row(name, *(f"{found[one]:.3g}" for one in found), f"{found['ours'] / found['loop']:.2f}")
    Console(width=80).print(table)


if __name__ == "__main__":
    typer.run(main)
