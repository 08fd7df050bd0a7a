"""Measures what a thought keeps, and how long a latent takes, against the number of latents and the window.

    python scripts/bench_window.py --out bench_window.json

buffers  MiB of all keys and values, at their most over the passes
process  MiB that the thought adds to the process at its peak; results of one vector a latent are in it
seconds  wall time of the thought / latents

A thought is made as in sampling, without gradient, one thread. Every point runs in a process of its own, one after the
other: run it on an idle machine. Ratios are to the same arm at the fewest latents. Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_engine import LATENT_ID
from bench_scaling import forget_peak, memory_status
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.pipeline.latent import LatentConfig, latentize
from neuralese.pipeline.latent.batch import Batch
from neuralese.pipeline.latent.engine.decoder import CachedDecoder
from neuralese.pipeline.latent.engine.packed import Keep

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 4, 256, 4, 1000, 4096
BATCH, PROMPT, ANSWER = 8, 64, 16
LATENTS = [16, 256, 2048]
# Window, and whether latents after the first see the question.
ARMS: dict[str, tuple[int | None, bool]] = {
    "None": (None, True),
    "1": (1, True),
    "4": (4, True),
    "1, question hidden": (1, False),
    "4, question hidden": (4, False),
}


@dataclass(frozen=True)
class Point:
    """What a thought of one length takes."""

    buffers: float
    process: float
    seconds: float


def measure(arm: str, latents: int, repeats: int) -> Point:
    """One point, in this process."""
    torch.set_num_threads(1)
    window, sees_question = ARMS[arm]
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS,
                        bos_token_id=None, eos_token_id=0)  # fmt: skip
    section = LatentConfig(window=window, sees_question=sees_question, token_ids=(2, LATENT_ID, 4))
    model = latentize(GPT2LMHeadModel(config).eval(), section)
    think(model, 4)  # libraries take what they need once
    before = forget_peak()
    buffers = BufferPeak()
    with buffers:
        think(model, latents)
    added = memory_status("VmHWM") - before
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        think(model, latents)
        seconds.append((time.perf_counter() - begin) / latents)
    return Point(buffers.most / 2**20, added, statistics.median(seconds))


@torch.no_grad()
def think(model: Any, latents: int) -> None:
    """Makes the latents of a batch of equal questions, with room for answers."""
    words = torch.randint(5, VOCABULARY, (BATCH, PROMPT))
    ids = torch.cat([words, torch.full((BATCH, latents), LATENT_ID)], 1)
    model.run_latents(Batch.of(ids, None, LATENT_ID), latents, keep=Keep(spare=ANSWER))


class BufferPeak:
    """Within it, the most bytes of keys and values after any pass."""

    most = 0

    def __enter__(self) -> None:
        self.run = run = CachedDecoder.__call__

        def measured(decoder: CachedDecoder, *args: Any, **options: Any) -> torch.Tensor:
            states = run(decoder, *args, **options)
            sizes = [buffer.nbytes for layer in decoder.cache.layers for buffer in layer.buffers]
            self.most = max(self.most, sum(sizes))
            return states

        CachedDecoder.__call__ = measured  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        CachedDecoder.__call__ = self.run  # type: ignore[method-assign]


def main(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench_window.json"),
    repeats: Annotated[int, typer.Option(min=1, help="Timed thoughts of each point.")] = 3,
) -> None:
    table = Table("window", "latents", "buffers [MiB]", "ratio", "process [MiB]", "ms a latent", "ratio")
    results: dict[str, dict[str, float]] = {}
    for arm in ARMS:
        first = None
        for latents in LATENTS:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                point = pool.apply(measure, (arm, latents, repeats))
            first = first or point
            results[f"{arm}/{latents}"] = asdict(point)
            table.add_row(
                arm, str(latents), f"{point.buffers:.2f}", f"{point.buffers / first.buffers:.2f}",
                f"{point.process:.0f}", f"{1000 * point.seconds:.2f}", f"{point.seconds / first.seconds:.2f}",
            )  # fmt: skip
    out.write_text(json.dumps(results, indent=2) + "\n")
    shape = f"GPT-2 of {LAYERS} layers, d {WIDTH}, {BATCH} rows, questions of {PROMPT} tokens, {ANSWER} for the answer"
    Console(width=110).print(shape, table)


if __name__ == "__main__":
    typer.run(main)
