"""How far a replay's log-probs lie from those of its rollouts: by rounding, and where the seeds are others.

    python scripts/replay_gap.py MODEL problems.jsonl --dtype bfloat16

Prints the largest and the mean difference in nats over all answer tokens. What alarms of RL know of rounding
(`REPLAY_LIMITS` in `pipeline/train/rl/alarms.py`) lies between the two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from neuralese.pipeline.latent.batch import Draw
from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate, pad_left
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.model.reasoner import Reasoner
from neuralese.pipeline.train.rl.estimators import replayed_logps
from neuralese.pipeline.train.rl.logps import Answers

BATCH = 8


@torch.no_grad()
def gaps(reasoner: Reasoner, questions: list[str], noise_spec: str, count: int, length: int) -> dict[str, Tensor]:
    """Differences in nats (N,) at each answer token, with the seeds of the rollouts and with other ones."""
    model, noise = reasoner.model, parse_noise(noise_spec)
    prompts = [reasoner.prompt_ids(question) for question in questions]
    rows = torch.arange(len(prompts)).repeat_interleave(count)
    seeds = torch.arange(len(rows)) + 1
    drawn = generate(model, prompts, rows, seeds, SamplingParams(1.0, length), noise, reasoner.eos_token_ids)
    width = drawn.logprobs.size(1)
    left, left_mask = pad_left([prompts[row] for row in rows.tolist()], reasoner.eos_token_ids[0], model.device)
    right, right_mask = pad_left([ids[::-1] for ids in drawn.token_ids], reasoner.eos_token_ids[0], model.device)
    ids, mask = torch.cat([left, right.flip(1)], 1), torch.cat([left_mask, right_mask.flip(1)], 1)
    is_answer = mask[:, -width:].bool()
    found = {}
    for name, used in (("same seeds", seeds), ("other seeds", seeds + len(seeds))):
        parts = []
        for part in torch.arange(len(ids)).split(BATCH):
            draw = Draw(noise, used[part]) if noise is not None else None
            answers = Answers(ids[part], mask[part], width)
            parts.append(replayed_logps(model, answers, draw, 1.0, reasoner.config.token_ids).logps)
        found[name] = (torch.cat(parts) - drawn.logprobs).abs()[is_answer]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("problems", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--noise", default="gaussian:0.1")
    parser.add_argument("--latents", type=int, default=3)
    given = parser.parse_args()
    lines = given.problems.read_text(encoding="utf-8").splitlines()[:8]
    asked = [json.loads(line)["question"] for line in lines]
    loaded = load_reasoner(given.model, dtype=given.dtype, num_latents=given.latents)
    for name, values in gaps(loaded, asked, given.noise, count=4, length=32).items():
        print(f"{name}: at most {values.max():.3g} nats, mean {values.mean():.3g}, over {len(values)} tokens")
