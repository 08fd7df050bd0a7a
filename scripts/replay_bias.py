"""Measures what the estimators of RL leave out: that the size of the noise, rms(z), depends on the weights.

    python scripts/replay_bias.py --width 768

A GPT-2 of two layers is trained to answer short chains from two latents, and then asked for the gradient of the
expected reward, the chance of the right answer under noise. Once rms(z) counts as given, as in the estimators, once it
does not; questions and noise are the same. Printed for each thought source:

bias     ‖E[with rms(z) given] − E[whole]‖ / ‖E[whole]‖, where ‖E‖² is ⟨first, second half of the draws⟩, to which what
         differs from draw to draw adds nothing on average
at most  the same of the mean over all draws, to which it adds
cosine   between the two
chance   of the right answer under noise
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.data.chain import ChainTask, generate
from neuralese.pipeline.latent.engine.precision import precise
from neuralese.pipeline.latent.noise import gaussian, parse_noise
from neuralese.pipeline.model.build import build_tokenizer
from neuralese.pipeline.model.load import make_reasoner
from neuralese.pipeline.model.reasoner import Reasoner
from neuralese.pipeline.problems.collate import Collator
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.schedule import Level

TASK = ChainTask(modulus=5, num_operations=2)
SOURCES = ("norm_matched", "projection", "raw", "soft_vocabulary")
LATENTS, BATCH = 2, 32


def given_rms(vector: Tensor) -> Tensor:
    """As the estimators take it."""
    return precise(vector.detach()).pow(2).mean(-1, keepdim=True).sqrt()


def live_rms(vector: Tensor) -> Tensor:
    return precise(vector).pow(2).mean(-1, keepdim=True).sqrt()


def build(width: int, source: str) -> Reasoner:
    tokenizer = build_tokenizer(generate(TASK, 200, "train", 0))
    config = GPT2Config(
        n_embd=width, n_layer=2, n_head=max(1, width // 64), n_positions=32, vocab_size=len(tokenizer),
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return make_reasoner(GPT2LMHeadModel(config), tokenizer, num_latents=LATENTS, thought_source=source)


def batches(reasoner: Reasoner, count: int) -> Iterator[dict[str, Any]]:
    """Batches of questions with two latents and their answers, and a noise seed for each."""
    problems = encode(generate(TASK, 200, "train", 0), reasoner.tokenizer)
    style, collate = Format(reasoner.config), Collator(reasoner.tokenizer.pad_token_id)
    draws = torch.Generator().manual_seed(1)
    for _ in range(count):
        chosen = torch.randint(len(problems), (BATCH,), generator=draws).tolist()
        batch = collate([style.example(problems[place], Level(1, None, LATENTS)) for place in chosen])
        yield {**batch, "noise_seeds": torch.randint(1, 2**31, (BATCH,), generator=draws)}


def train(reasoner: Reasoner, steps: int, noise: Any) -> None:
    optimizer = torch.optim.AdamW(reasoner.model.parameters(), lr=1e-3)
    for batch in batches(reasoner, steps):
        optimizer.zero_grad()
        reasoner.model(**batch, noise=noise).loss.backward()
        torch.nn.utils.clip_grad_norm_(reasoner.model.parameters(), 1.0)
        optimizer.step()


def chances(reasoner: Reasoner, batch: dict[str, Any], noise: Any) -> Tensor:
    """Chance (B,) of the right answer under the noise of each row."""
    logits = reasoner.model(**batch, noise=noise).logits
    labels = batch["labels"][:, 1:]
    row, column = (labels != -100).nonzero(as_tuple=True)
    logps = logits.log_softmax(-1).gather(1, labels[row, column][:, None]).squeeze(1)
    return torch.zeros(len(labels)).index_add(0, row, logps).exp()


def gradients(reasoner: Reasoner, draws: int, noise: Any) -> tuple[list[Tensor], float]:
    """Mean gradient of the chance over each half of the draws, and the mean chance."""
    weights = [weight for weight in reasoner.model.parameters() if weight.requires_grad]
    halves = [torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64) for _ in range(2)]
    total = 0.0
    for place, batch in enumerate(batches(reasoner, draws)):
        chance = chances(reasoner, batch, noise).mean()
        found = torch.autograd.grad(chance, weights, allow_unused=True, materialize_grads=True)
        halves[place % 2] += torch.cat([one.flatten().double() for one in found]) / (draws / 2)
        total += chance.item() / draws
    return halves, total


def main(
    sources: Annotated[list[str] | None, typer.Argument(help="Thought sources; default: four.")] = None,
    width: Annotated[int, typer.Option(help="d of the model.")] = 768,
    scale: Annotated[float, typer.Option(help="Of the gaussian noise.")] = 0.3,
    steps: Annotated[int, typer.Option(help="Of training, before.")] = 30,
    draws: Annotated[int, typer.Option(help="Batches of 32 questions behind a mean.")] = 8,
) -> None:
    noise = parse_noise(f"gaussian:{scale}")
    print(f"d {width}, gaussian:{scale}, {steps} training steps, {draws * BATCH} draws")
    for source in sources or SOURCES:
        reasoner = build(width, source)
        train(reasoner, steps, noise)
        means = []
        for rms in (given_rms, live_rms):
            gaussian.rms = rms
            halves, chance = gradients(reasoner, draws, noise)
            means.append(halves)
        gaussian.rms = given_rms
        given, whole = means
        gap = [ours - true for ours, true in zip(given, whole, strict=True)]
        norm = (whole[0] @ whole[1]).clamp_min(0).sqrt()
        bias = (gap[0] @ gap[1]).clamp_min(0).sqrt() / norm
        both = [halves[0] + halves[1] for halves in means]
        most = (both[0] - both[1]).norm() / both[1].norm()
        cosine = torch.nn.functional.cosine_similarity(both[0], both[1], dim=0)
        shown = f"bias {bias:.4f}   at most {most:.4f}   cosine {cosine:.6f}   chance {chance:.2f}"
        print(f"{source:16} {shown}", flush=True)


if __name__ == "__main__":
    typer.run(main)
