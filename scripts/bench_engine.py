"""Measures the latent engine against its floor and against the textbook algorithm; prints a table, writes JSON.

    python scripts/bench_engine.py --out bench.json

floor_ratio           training step / one parallel pass over the same tokens with the same loss positions
textbook_speedup      textbook training step / ours
generation_speedup    textbook seconds a greedy answer / ours, prompts answered as one batch
single_speedup        the same, ours answering one prompt at a time too
jacobi<T>_ratio       training step of T Jacobi sweeps / one of sequential latents, on the shape of the quickstart (Q)
loops<R>x<L>_floor_ratio  training step of L looped latents in R loops / one parallel pass over the same tokens
loops<R>x<L>_step_ratio   the same / training step of L sequential latents
shared_prefill_ratio  16 samples of one 512-token prompt / one sample of each of 16 such prompts

Every ratio is between medians of runs that take turns in one process. Keys are figure/setting/t<threads>.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from textbook import textbook_generate, textbook_step
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from neuralese.pipeline.latent import LatentConfig, latentize
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate

LATENTS, LATENT_ID = 6, 3
LOOPED_LATENTS, LOOPS = (24, 78), (3, 6)


@dataclass(frozen=True)
class Setting:
    """A model shape and the lengths of its rows, in tokens."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    batch: int
    prompt: int
    answer: int

    latents: int = LATENTS

    def model(self) -> PreTrainedModel:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=self.vocabulary, n_embd=self.width, n_layer=self.layers, n_head=self.heads, n_positions=1024,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=0,
        )  # fmt: skip
        section = LatentConfig(thought_source="raw", num_latents=self.latents, token_ids=(2, LATENT_ID, 4))
        return latentize(GPT2LMHeadModel(config), section)

    def prompts(self, count: int, length: int) -> Tensor:
        """Random prompts (B, T) that end in their latents."""
        words = torch.randint(5, self.vocabulary, (count, length))
        return torch.cat([words, torch.full((count, self.latents), LATENT_ID)], 1)

    def batch_of_rows(self) -> tuple[Tensor, Tensor]:
        """Ids and labels (B, T); the answer is labelled."""
        answer = torch.randint(5, self.vocabulary, (self.batch, self.answer))
        prompts = self.prompts(self.batch, self.prompt)
        return torch.cat([prompts, answer], 1), torch.cat([torch.full_like(prompts, -100), answer], 1)


SETTINGS = {
    "A": Setting(layers=2, width=768, heads=8, vocabulary=50000, batch=16, prompt=64, answer=16),
    "B": Setting(layers=12, width=768, heads=12, vocabulary=50257, batch=4, prompt=64, answer=16),
    "C": Setting(layers=2, width=128, heads=4, vocabulary=64, batch=64, prompt=200, answer=12),
}
QUICKSTART = Setting(layers=2, width=96, heads=4, vocabulary=64, batch=128, prompt=14, answer=3, latents=5)


def floor_step(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    """One parallel pass in which latents are ordinary tokens."""
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    logits = model.get_output_embeddings()(states[rows, columns])
    loss = F.cross_entropy(logits, labels[rows, columns + 1])
    loss.backward()
    return loss


def engine_step(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    return loss


def answers(model: PreTrainedModel, prompts: list[list[int]], rows: Tensor, num_tokens: int) -> list[list[int]]:
    """Greedy answers of exactly `num_tokens`; no token ends them."""
    seeds = torch.zeros(len(rows), dtype=torch.long)
    sampling = SamplingParams(max_new_tokens=num_tokens)
    return generate(model, prompts, rows, seeds, sampling, None, eos_token_ids=[-1]).token_ids


def medians(model: PreTrainedModel, runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run. They take turns, so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            model.zero_grad(set_to_none=True)
            begin = time.perf_counter()
            run()
            if turn > 0:  # the first turn warms up
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_training(setting: Setting, repeats: int) -> dict[str, float]:
    model = setting.model().train()
    ids, labels = setting.batch_of_rows()
    ours, theirs = engine_step(model, ids, labels), textbook_step(model, ids, labels, LATENT_ID)
    assert torch.allclose(ours, theirs, rtol=1e-4), "the textbook computes another loss"
    found = medians(
        model,
        {
            "floor_seconds": lambda: floor_step(model, ids, labels),
            "step_seconds": lambda: engine_step(model, ids, labels),
            "textbook_seconds": lambda: textbook_step(model, ids, labels, LATENT_ID),
        },
        repeats,
    )
    return {
        "floor_ratio": found["step_seconds"] / found["floor_seconds"],
        "textbook_speedup": found["textbook_seconds"] / found["step_seconds"],
        **found,
    }


def measure_generation(setting: Setting, repeats: int) -> dict[str, float]:
    model = setting.model().eval()
    prompts = setting.prompts(setting.batch, setting.prompt)
    rows = torch.arange(setting.batch)
    ours = answers(model, prompts.tolist(), rows, setting.answer)
    theirs = textbook_generate(model, prompts[:1], LATENT_ID, setting.answer)
    assert ours[0] == theirs, "the textbook generates another answer"
    found = medians(
        model,
        {
            "batch": lambda: answers(model, prompts.tolist(), rows, setting.answer),
            "single": lambda: answers(model, prompts[:1].tolist(), rows[:1], setting.answer),
            "textbook": lambda: textbook_generate(model, prompts[:1], LATENT_ID, setting.answer),
        },
        repeats,
    )
    a_sample = found["batch"] / setting.batch
    return {
        "generation_speedup": found["textbook"] / a_sample,
        "single_speedup": found["textbook"] / found["single"],
        "sample_seconds": a_sample,
        "single_sample_seconds": found["single"],
        "textbook_sample_seconds": found["textbook"],
    }


def measure_jacobi(setting: Setting, repeats: int) -> dict[str, float]:
    model = setting.model().train()
    ids, labels = setting.batch_of_rows()

    def step(sweeps: int | None) -> None:
        model.set_latent_config(jacobi_sweeps=sweeps)
        engine_step(model, ids, labels)

    arms = {"step": None, "jacobi1": 1, "jacobi2": 2, "jacobi3": 3}
    found = medians(model, {name: functools.partial(step, sweeps) for name, sweeps in arms.items()}, repeats)
    ratios = {f"{name}_ratio": found[name] / found["step"] for name in arms if name != "step"}
    return ratios | {f"{name}_seconds": seconds for name, seconds in found.items()}


def measure_loops(setting: Setting, repeats: int) -> dict[str, float]:
    """Looped latents against the floor and against as many sequential ones, for each number of them."""
    results = {}
    for latents in LOOPED_LATENTS:
        wide = replace(setting, latents=latents)
        model = wide.model().train()
        ids, labels = wide.batch_of_rows()

        def step(model: PreTrainedModel, ids: Tensor, labels: Tensor, loops: int | None) -> None:
            model.set_latent_config(loops=loops)
            engine_step(model, ids, labels)

        arms = {"floor": functools.partial(floor_step, model, ids, labels)}
        arms |= {f"loops{loops}": functools.partial(step, model, ids, labels, loops) for loops in LOOPS}
        arms |= {"step": functools.partial(step, model, ids, labels, None)}
        found = medians(model, arms, repeats)
        for loops in LOOPS:
            seconds, name = found[f"loops{loops}"], f"loops{loops}x{latents}"
            results |= {f"{name}_{other}_ratio": seconds / found[other] for other in ("floor", "step")}
            results[f"{name}_seconds"] = seconds
        results |= {f"{arm}_x{latents}_seconds": found[arm] for arm in ("floor", "step")}
    return results


def measure_sharing(setting: Setting, repeats: int, count: int = 16, length: int = 512) -> dict[str, float]:
    model = setting.model().eval()
    prompts = setting.prompts(count, length).tolist()
    found = medians(
        model,
        {
            "shared_seconds": lambda: answers(model, prompts[:1], torch.zeros(count, dtype=torch.long), setting.answer),
            "separate_seconds": lambda: answers(model, prompts, torch.arange(count), setting.answer),
        },
        repeats,
    )
    return {"shared_prefill_ratio": found["shared_seconds"] / found["separate_seconds"], **found}


def main(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench_engine.json"),
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each figure.")] = 7,
    threads: Annotated[list[int], typer.Option(min=1, help="Thread counts; repeat the option.")] = [1, 2],  # noqa: B006
    settings: Annotated[str, typer.Option(help="Which of A, B and C.")] = "ABC",
    only_loops: Annotated[bool, typer.Option(help="Looped latents alone.")] = False,
) -> None:
    unknown = set(settings) - set(SETTINGS)
    if unknown or not settings:
        raise typer.BadParameter(f"{settings!r} holds no setting or unknown ones. Choose from {''.join(SETTINGS)}.")
    results: dict[str, float] = {}
    for count in threads:
        torch.set_num_threads(count)
        for name in settings:
            results |= {
                f"{key}/{name}/t{count}": value for key, value in measure_loops(SETTINGS[name], repeats).items()
            }
            if only_loops:
                continue
            found = measure_training(SETTINGS[name], repeats) | measure_generation(SETTINGS[name], repeats)
            if name == "B":
                found |= measure_sharing(SETTINGS[name], repeats)
            results |= {f"{figure}/{name}/t{count}": value for figure, value in found.items()}
        if only_loops:
            continue
        found = measure_jacobi(QUICKSTART, 10 * repeats)
        results |= {f"{figure}/Q/t{count}": value for figure, value in found.items()}
    out.write_text(json.dumps(results, indent=2) + "\n")
    table = Table("figure", "value", title=f"median of {repeats}; seconds unless a ratio")
    for key, value in results.items():
        table.add_row(key, f"{value:.4g}")
    Console(width=80).print(table)


if __name__ == "__main__":
    typer.run(main)
